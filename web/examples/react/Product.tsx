// React 19 sets properties of custom elements, and listens to their events by on… properties.

import type { LikeButton, LikeEventDetail, TokenSource } from '@likes/like-button';
import type { DetailedHTMLProps, HTMLAttributes, JSX } from 'react';

interface LikeButtonProps {
  productId: string;
  token?: TokenSource;
  count?: number;
  liked?: boolean;
  live?: boolean;
  label?: string;
  onlike?: (event: CustomEvent<LikeEventDetail>) => void;
  'onauth-required'?: (event: Event) => void;
}

declare module 'react' {
  namespace JSX {
    interface IntrinsicElements {
      'like-button': DetailedHTMLProps<HTMLAttributes<LikeButton>, LikeButton> & LikeButtonProps;
    }
  }
}

export function Product({
  id,
  token,
  onSignIn,
}: {
  id: string;
  token: () => Promise<string>;
  onSignIn: () => void;
}): JSX.Element {
  return (
    <like-button
      productId={id}
      token={token}
      live
      onlike={({ detail }) => console.info(detail.receipt)}
      onauth-required={(event) => {
        event.preventDefault();
        onSignIn();
      }}
    />
  );
}
