// Numbers and plurals in the language of the page around a button, else in the reader's.

const made = new Map<string, ReturnType<typeof make>>();

function make(locale: string | undefined) {
  return {
    short: new Intl.NumberFormat(locale, { notation: 'compact', maximumFractionDigits: 1 }),
    full: new Intl.NumberFormat(locale),
    plural: new Intl.PluralRules(locale),
  };
}

/** An unknown language is the reader's own. */
export function formats(lang = ''): ReturnType<typeof make> {
  let found = made.get(lang);
  if (!found) {
    try {
      found = make(lang || undefined);
    } catch {
      found = make(undefined);
    }
    made.set(lang, found);
  }
  return found;
}
