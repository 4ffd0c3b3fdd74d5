declare function make(locale: string | undefined): {
    short: Intl.NumberFormat;
    full: Intl.NumberFormat;
    plural: Intl.PluralRules;
};
/** An unknown language is the reader's own. */
export declare function formats(lang?: string): ReturnType<typeof make>;
export {};
