import type { LikeEventDetail, TokenSource } from '@likes/like-button';
import type { HTMLAttributes } from 'svelte/elements';

declare module 'svelte/elements' {
  export interface SvelteHTMLElements {
    'like-button': HTMLAttributes<HTMLElement> & {
      'product-id': string;
      token?: TokenSource;
      live?: boolean;
      onlike?: (event: CustomEvent<LikeEventDetail>) => void;
      'onauth-required'?: (event: Event) => void;
    };
  }
}
