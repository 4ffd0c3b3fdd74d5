// Reads docs/asyncapi.yaml with AsyncAPI's own parser, which validates the document and its references;
// any complaint of it fails. Examples and limits are held to the code by crates/like-events/tests/asyncapi.rs.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, file] = process.argv.slice(2);
const { Parser } = createRequire(`${modules}/package.json`)("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"), { source: file });
// 3.0 is what tools read today; the parser would rather see its newest.
const complaints = diagnostics.filter(({ code }) => code !== "asyncapi-latest-version");
for (const { severity, code, message, path, range } of complaints) {
  const kind = ["error", "warning", "information", "hint"][severity];
  console.error(`${file}:${range.start.line + 1}: ${kind}: ${message} (${code}, ${path.join(".")})`);
}
if (complaints.length > 0 || !document) process.exit(1);
const messages = document.allMessages().all();
const examples = messages.flatMap((message) => message.examples().all());
console.log(`${file}: AsyncAPI ${document.version()}, ${messages.length} messages, ${examples.length} examples, no complaints`);
