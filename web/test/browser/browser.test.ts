// The element in a real browser, against the real services: make test-web.

import { after, afterEach, before } from 'node:test';
import { pageTests } from './page.js';
import { readingTests } from './reading.js';
import { sendingTests } from './sending.js';
import { Site } from './site.js';

let site: Site;
before(async () => {
  site = await Site.start();
});
afterEach(() => site.reset());
after(() => site.stop());

const current = () => site;
sendingTests(current);
readingTests(current);
pageTests(current);
