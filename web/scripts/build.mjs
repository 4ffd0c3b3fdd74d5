// `npm run build`: writes dist/. With --check it only compares and says how large the module is.

import { execFileSync } from 'node:child_process';
import { copyFile, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build, transform } from 'esbuild';

/** The bytes that /like-button.js may have after gzip. */
const LIMIT = 6000;

export const styles = {
  name: 'styles',
  setup({ onLoad }) {
    onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const { code } = await transform(await readFile(path, 'utf8'), { loader: 'css', minify: true });
      return { contents: code.trim(), loader: 'text' };
    });
  },
};

/** What the demo page loads by itself: the button as it is served, and the charts once they are needed. */
const served = {
  name: 'served',
  setup({ onResolve }) {
    onResolve({ filter: /\/like-button\.js$/ }, () => ({ path: '../like-button.js', external: true }));
    onResolve({ filter: /\/charts\.js$/ }, () => ({ path: './charts.js', external: true }));
  },
};

async function write(folder) {
  await build({
    entryPoints: ['src/like-button.ts', 'src/client.ts'],
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    mangleProps: /^_/,
    plugins: [styles],
    outdir: folder,
  });
  await build({
    entryPoints: ['demo/demo.ts', 'demo/charts.ts', 'demo/demo.css'],
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    plugins: [served],
    outdir: join(folder, 'demo'),
  });
  await copyFile('demo/index.html', join(folder, 'demo/index.html'));
  execFileSync('node_modules/.bin/tsc', ['-p', 'tsconfig.build.json', '--outDir', folder], { stdio: 'inherit' });
}

if (process.argv[1]?.endsWith('build.mjs')) {
  const check = process.argv.includes('--check');
  const folder = check ? await mkdtemp(join(tmpdir(), 'like-button-')) : 'dist';
  if (!check) await rm('dist', { recursive: true, force: true });
  await write(folder);
  const size = gzipSync(await readFile(join(folder, 'like-button.js')), { level: 9 }).length;
  console.log(`like-button.js: ${size} bytes after gzip, of at most ${LIMIT}`);
  if (size > LIMIT) process.exitCode = 1;
  if (check) {
    const files = async (place) =>
      (await readdir(place, { recursive: true, withFileTypes: true })).filter((e) => e.isFile());
    const names = async (place) =>
      (await files(place)).map((e) => relative(place, join(e.parentPath ?? e.path, e.name))).sort();
    const same = async (name) => (await readFile(join(folder, name))).equals(await readFile(join('dist', name)));
    const [fresh, stored] = [await names(folder), await names('dist')];
    if (`${fresh}` !== `${stored}` || !(await Promise.all(fresh.map(same))).every(Boolean)) {
      console.error('web/dist is not what the sources give: run npm run build in web/ and commit it');
      process.exitCode = 1;
    }
    await rm(folder, { recursive: true });
  }
}
