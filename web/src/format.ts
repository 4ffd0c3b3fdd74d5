// Numbers and plurals in the language of the page around a button, else in the reader's.

const make = (locale?: string) => ({
  _short: new Intl.NumberFormat(locale, { notation: 'compact', maximumFractionDigits: 1 }),
  _full: new Intl.NumberFormat(locale),
  _plural: new Intl.PluralRules(locale),
});

const made = new Map<string, ReturnType<typeof make>>();

/** An unknown language is the reader's own. */
export function formats(lang = ''): ReturnType<typeof make> {
  if (!made.has(lang)) {
    try {
      made.set(lang, make(lang || undefined));
    } catch {
      made.set(lang, make());
    }
  }
  return made.get(lang)!;
}
