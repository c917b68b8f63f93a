// 80 % reads, 20 % writes: lists 45, gets 35, creates 13, patches 7 of 100, at RATE a second.

import { ids } from '../lib/ids.js';
import { openModel } from '../lib/settings.js';
import { create, list, patch, read } from '../lib/tickets.js';

export { handleSummary } from '../lib/summary.js';
export const options = openModel({
  'http_req_duration{route:GET /tickets/{id}}': ['p(99)<250'],
  'http_req_duration{route:POST /tickets}': ['p(99)<250'],
});

export default function () {
  const chance = Math.random() * 100;
  if (chance < 45) list();
  else if (chance < 80) read(ids);
  else if (chance < 93) create();
  else patch(ids);
}
