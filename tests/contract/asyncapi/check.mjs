// Validates docs/asyncapi.yaml with AsyncAPI's own parser; any finding is a failure.
// crates/like-events/tests/asyncapi.rs checks examples and limits against the code.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, file] = process.argv.slice(2);
const { Parser } = createRequire(`${modules}/package.json`)("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"), { source: file });
// Tools read 3.0 today; the parser recommends the latest version.
const findings = diagnostics.filter(({ code }) => code !== "asyncapi-latest-version");
for (const { severity, code, message, path, range } of findings) {
  const kind = ["error", "warning", "information", "hint"][severity];
  console.error(`${file}:${range.start.line + 1}: ${kind}: ${message} (${code}, ${path.join(".")})`);
}
if (findings.length > 0 || !document) process.exit(1);
const messages = document.allMessages().all();
const examples = messages.flatMap((message) => message.examples().all());
console.log(`${file}: AsyncAPI ${document.version()}, ${messages.length} messages, ${examples.length} examples, valid`);
