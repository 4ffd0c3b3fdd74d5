import type { LikeEventDetail } from '@likes/like-button';
import type { DefineComponent } from 'vue';

declare module 'vue' {
  interface GlobalComponents {
    'like-button': DefineComponent<{
      productId: string;
      token?: string;
      live?: boolean;
      onLike?: (event: CustomEvent<LikeEventDetail>) => void;
      onAuthRequired?: (event: Event) => void;
    }>;
  }
}
