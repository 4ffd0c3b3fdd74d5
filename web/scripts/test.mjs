// `npm test` (unit), `npm run test:browser` and `npm run test:demo`: bundles test/<kind>/*.test.ts, which Node.js 18 can't
// run as they are, and runs them with node's own test runner. More arguments go to it.
import { spawnSync } from 'node:child_process';
import { readdir, rm } from 'node:fs/promises';
import { build } from 'esbuild';
import { styles } from './build.mjs';

const [kind, ...args] = process.argv.slice(2);
const tests = (await readdir(`test/${kind}`)).filter((name) => name.endsWith('.test.ts'));
const outdir = `.build/${kind}`;
await rm(outdir, { recursive: true, force: true });
await build({
  entryPoints: tests.map((name) => `test/${kind}/${name}`),
  bundle: true,
  packages: 'external',
  platform: 'node',
  format: 'esm',
  sourcemap: 'inline',
  plugins: [styles],
  outdir,
});
const files = tests.map((name) => `${outdir}/${name.replace(/ts$/, 'js')}`);
const { status } = spawnSync(process.execPath, ['--enable-source-maps', '--test', ...args, ...files], {
  stdio: 'inherit',
});
process.exit(status ?? 1);
