// <like-button>: shows the likes of a product and lets the reader like it. What to show and what to
// send is the concern of core.ts, of which all buttons of a service share one.

import { type ClientOptions, type Core, openCore, type View } from './core.js';
import { formats } from './format.js';
import type { LikeError, TokenSource } from './http.js';
import { emit, warn } from './rules.js';
import css from './style.css';

export type { ClientOptions, LikeEventDetail } from './core.js';
export type { LikeError, Reason, TokenSource } from './http.js';

const HEART = 'M12 21l-8-8a5 5 0 0 1 8-6 5 5 0 0 1 8 6Z';
/** Where this module is from: the service, unless it is part of a bundle. */
const HOME = new URL('.', import.meta.url).href;
/** Properties that are attributes. */
const REFLECTED = ['productId', 'api', 'user', 'credentials', 'count', 'liked', 'live', 'disabled'];
const attribute = (property: string) => property.replace('I', '-i');
/** Attributes with texts. */
const WORDS: Record<string, string> = {
  label: 'Like',
  'label-one': '{count} like',
  'label-other': '{count} likes',
  'label-failed': 'Your like was not saved',
  'label-auth': 'Sign in to like this',
};
const UNKNOWN = { count: null, liked: false, pending: false };

/** What buttons use that don't say it themselves. */
const defaults: Partial<ClientOptions> = {};
const clients = new Map<string, Core>();
const connected = new Set<LikeButton>();
let sheet: CSSStyleSheet | undefined;

/** Server-side rendering loads this module without a DOM. */
const Base = globalThis.HTMLElement ?? (class {} as typeof HTMLElement);

let inView: IntersectionObserver | undefined;

function make(name: string, attributes: Record<string, string>, ...children: Node[]): HTMLElement {
  const kind = /svg|path/.test(name) ? '2000/svg' : '1999/xhtml';
  const element = document.createElementNS(`http://www.w3.org/${kind}`, name) as HTMLElement;
  for (const name in attributes) element.setAttribute(name, attributes[name]!);
  element.append(...children);
  return element;
}

/** A like button: custom-elements.json is its reference. */
export class LikeButton extends Base {
  static readonly observedAttributes = [...REFLECTED.map(attribute), ...Object.keys(WORDS), 'token'];

  /** Sets what all buttons of the page use that don't have the attribute. */
  static configure(options: Partial<ClientOptions>): void {
    Object.assign(defaults, options);
    for (const button of connected) button.#start(true);
  }

  declare productId: string;
  declare api: string;
  declare user: string | null;
  declare credentials: RequestCredentials;
  /** What is shown; null: unknown. Setting it gives the value to show before the first read, as for `liked`. */
  declare count: number | null;
  declare liked: boolean;
  declare live: boolean;
  declare disabled: boolean;

  /** @internal */
  _view: Omit<View, 'productId'> = UNKNOWN;
  #client: Core | undefined;
  #token: TokenSource;
  #visible = false;
  #message = '';
  #stop = () => {};
  #button: HTMLButtonElement | undefined;

  /** A token, or a function that returns one. */
  set token(token: TokenSource) {
    this.#token = token;
    this.#start(true);
  }

  connectedCallback(): void {
    if (!this.#button) {
      if (!sheet) (sheet = new CSSStyleSheet()).replaceSync(css);
      const root = this.attachShadow({ mode: 'open', delegatesFocus: true });
      root.adoptedStyleSheets = [sheet];
      const icon = make('svg', { part: 'icon', viewBox: '0 0 24 24' }, make('path', { d: HEART }));
      const button = make('button', {}, make('slot', { name: 'icon' }, icon), make('span', { part: 'count' }));
      button.onclick = () => this.#click();
      root.append(button, make('span', { part: 'status', role: 'status' }));
      this.#button = button as HTMLButtonElement;
      this.addEventListener('error', () => this.#say('label-failed'));
      // What a framework has set before this element was defined.
      for (const [name, value] of Object.entries(this)) {
        if (name in LikeButton.prototype) {
          delete (this as Record<string, unknown>)[name];
          this[name as 'live'] = value;
        }
      }
    }
    connected.add(this);
    inView ??= new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const button = target as LikeButton;
        button.#visible = isIntersecting;
        button.#start();
      }
    });
    inView.observe(this);
    this.#start(true);
  }

  disconnectedCallback(): void {
    connected.delete(this);
    inView?.unobserve(this);
    this.#stop();
  }

  attributeChangedCallback(name: string, _: string | null, value: string | null): void {
    if (name === 'token') this.token = value;
    else this.#start(/^[pauc]/.test(name));
  }

  /** Shows the product, and watches it while it is in view. `identify`: the client or its user may be another one. */
  #start(identify = false): void {
    if (!this.isConnected || !this.#button) return;
    this.#stop();
    try {
      if (identify) this.#client = this.#find();
      const { productId } = this;
      const [count, liked] = [this.getAttribute('count'), this.hasAttribute('liked')];
      if (count || liked) this.#client?._seed(productId, /^\d{1,16}$/.test(count!) ? +count! : null, liked);
      const paint = (view: View) => this.#paint(view);
      if (this.#visible) this.#stop = this.#client!._watch([productId], paint, this.live, this);
      else paint(this.#client!._view(productId));
    } catch (error) {
      if (identify) warn((error as Error).message, this);
      this.#client = undefined;
      this.#paint(UNKNOWN);
    }
  }

  #find(): Core {
    const api = this.api || defaults.api || HOME;
    const credentials = this.credentials || defaults.credentials;
    const name = `${api} ${credentials}`;
    const client = clients.get(name) ?? openCore({ ...defaults, api, credentials });
    clients.set(name, client);
    const token = this.#token === undefined ? defaults.token : this.#token;
    const user = this.user || defaults.user;
    if (token !== undefined) client._http._set(token);
    if (user) client._user(user);
    return client;
  }

  #click(): void {
    this.#say();
    const { productId } = this;
    const done = (error?: LikeError) => {
      if (error?.reason === 'auth' && emit(this, 'auth-required', { productId })) this.#say('label-auth');
    };
    this.#client!._like(productId, !this.liked, done, this);
  }

  /** Tells what is wrong, until the next click. */
  #say(word?: string): void {
    this.#message = word ? this.#word(word) : '';
    this.#button!.nextSibling!.textContent = this.#message;
    this.#paint(this._view);
  }

  #word(name: string): string {
    return this.getAttribute(name) ?? WORDS[name] ?? this.#word('label-other');
  }

  #paint(view: typeof this._view): void {
    this._view = view;
    const { count, liked, pending } = view;
    const { _short, _full, _plural } = formats(this.closest<HTMLElement>('[lang]')?.lang);
    const number = count === null ? '–' : _short.format(count);
    const likes =
      count === null ? '' : this.#word(`label-${_plural.select(count)}`).replace('{count}', _full.format(count));
    const button = this.#button!;
    button.lastChild!.textContent = number;
    button.disabled = this.disabled || !this.#client;
    button.title = this.#message || likes;
    // The visible text has to be part of the name: people say it to press the button.
    button.ariaLabel = this.#word('label') + (likes && `, ${likes.includes(number) ? '' : `${number}, `}${likes}`);
    button.ariaPressed = `${liked}`;
    button.part.value = `button${liked ? ' liked' : ''}${pending ? ' pending' : ''}${this.#message && ' failed'}`;
  }
}

for (const name of REFLECTED) {
  Object.defineProperty(LikeButton.prototype, name, {
    get(this: LikeButton) {
      const value = this.getAttribute(attribute(name));
      // What is shown, what is switched on, or what is written.
      return name in UNKNOWN ? this._view[name as 'count'] : /^[ld]/.test(name) ? value !== null : value;
    },
    set(this: LikeButton, value: unknown) {
      if (value == null || value === false) this.removeAttribute(attribute(name));
      else this.setAttribute(attribute(name), value === true ? '' : (value as string));
    },
  });
}

declare global {
  interface HTMLElementTagNameMap {
    'like-button': LikeButton;
  }
}

if (globalThis.customElements && !customElements.get('like-button')) customElements.define('like-button', LikeButton);
