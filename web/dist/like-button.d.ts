import { type ClientOptions } from './core.js';
import type { TokenSource } from './http.js';
export type { ClientOptions, LikeEventDetail } from './core.js';
export type { LikeError, Reason, TokenSource } from './http.js';
/** Server-side rendering loads this module without a DOM. */
declare const Base: {
    new (): HTMLElement;
    prototype: HTMLElement;
};
/** A like button: custom-elements.json is its reference. */
export declare class LikeButton extends Base {
    #private;
    static readonly observedAttributes: string[];
    /** Sets what all buttons of the page use that don't have the attribute. */
    static configure(options: Partial<ClientOptions>): void;
    productId: string;
    api: string;
    user: string | null;
    credentials: RequestCredentials;
    /** What is shown; null: unknown. Setting it gives the value to show before the first read, as for `liked`. */
    count: number | null;
    liked: boolean;
    live: boolean;
    disabled: boolean;
    /** A token, or a function that returns one. */
    set token(token: TokenSource);
    connectedCallback(): void;
    disconnectedCallback(): void;
    attributeChangedCallback(name: string, _: string | null, value: string | null): void;
}
declare global {
    interface HTMLElementTagNameMap {
        'like-button': LikeButton;
    }
}
