// The reference in README.md, made from custom-elements.json. `npm run reference` writes it; a unit
// test compares.
import { readFile, writeFile } from 'node:fs/promises';

const START = '<!-- reference: npm run reference -->';

const cell = (text) => String(text).replaceAll('|', '\\|');
const code = (text) => `\`${text}\``;

function table(title, heads, rows) {
  const line = (cells) => `| ${cells.map(cell).join(' | ')} |`;
  return [`### ${title}`, '', line(heads), line(heads.map(() => '---')), ...rows.map(line), ''].join('\n');
}

/** The README with a current reference. */
export function withReference(readme, manifest) {
  const element = manifest.modules[0].declarations[0];
  const plain = (items) => items.map(({ name, description }) => [code(name), description]);
  const parts = [
    table(
      'Attributes',
      ['attribute', 'default', 'meaning'],
      element.attributes.map(({ name, default: value, description }) => [
        code(name),
        value ? code(value) : '',
        description,
      ]),
    ),
    table(
      'Properties and methods',
      ['name', 'type', 'meaning'],
      element.members.map(({ name, type, description }) => [
        code(name),
        type ? code(type.text) : 'static method',
        description,
      ]),
    ),
    table('Events', ['event', 'meaning'], plain(element.events)),
    table('Slots', ['slot', 'meaning'], plain(element.slots)),
    table('Parts', ['part', 'meaning'], plain(element.cssParts)),
    table(
      'CSS properties',
      ['property', 'default', 'meaning'],
      element.cssProperties.map(({ name, default: value, description }) => [code(name), code(value), description]),
    ),
  ];
  return `${readme.slice(0, readme.indexOf(START))}${START}\n\n${parts.join('\n')}`;
}

if (process.argv[1]?.endsWith('reference.mjs')) {
  const readme = await readFile('README.md', 'utf8');
  await writeFile('README.md', withReference(readme, JSON.parse(await readFile('custom-elements.json', 'utf8'))));
}
