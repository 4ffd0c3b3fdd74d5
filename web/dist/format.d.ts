declare const make: (locale?: string) => {
    _short: Intl.NumberFormat;
    _full: Intl.NumberFormat;
    _plural: Intl.PluralRules;
};
/** An unknown language is the reader's own. */
export declare function formats(lang?: string): ReturnType<typeof make>;
export {};
