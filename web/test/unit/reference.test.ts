// custom-elements.json names what the element has, and the README what custom-elements.json names.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

interface Named {
  name: string;
}
const manifest = JSON.parse(await readFile('custom-elements.json', 'utf8'));
const element = manifest.modules[0].declarations[0];
const names = (items: Named[]) => items.map(({ name }) => name).sort();
const source = await readFile('src/like-button.ts', 'utf8');
const style = await readFile('src/style.css', 'utf8');
const unique = (found: Iterable<RegExpMatchArray>) => [...new Set([...found].map((match) => match[1]!))].sort();

test('module loads on a server, without a DOM', async () => {
  const { LikeButton } = await import('../../src/like-button.js');
  const plurals = ['zero', 'one', 'two', 'few', 'many', 'other'].map((each) => `label-${each}`);
  const observed = [...new Set([...LikeButton.observedAttributes, ...plurals])];
  assert.deepEqual(names(element.attributes), observed.sort());
  const fields = element.members.filter(({ kind }: { kind: string }) => kind === 'field') as Named[];
  for (const { name } of fields) assert.ok(Object.getOwnPropertyDescriptor(LikeButton.prototype, name), name);
});

test('manifest names every part, slot, event and CSS property', () => {
  const parts = [
    ...unique(source.matchAll(/part: '([a-z]+)'/g)),
    ...unique(source.matchAll(/' (liked|pending|failed)'/g)),
    'button',
  ];
  assert.deepEqual(names(element.cssParts), [...new Set(parts)].sort());
  assert.deepEqual(names(element.slots), unique(source.matchAll(/'slot', \{ name: '([a-z]+)'/g)));
  assert.deepEqual(names(element.cssProperties), unique(style.matchAll(/var\((--like-button-[a-z]+)/g)));
  assert.deepEqual(names(element.events), ['auth-required', 'counted', 'error', 'like', 'unlike']);
});

test('README has the reference of the manifest', async () => {
  const { withReference } = await import('../../scripts/reference.mjs' as string);
  const readme = await readFile('README.md', 'utf8');
  assert.equal(readme, withReference(readme, manifest), 'run npm run reference');
});
