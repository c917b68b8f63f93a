// 80 % reads, 20 % writes: lists 45, gets 35, creates 13, patches 7 of 100, at RATE a second. With
// ATTACHMENTS=1, where ticketd has an S3 store, 1 of 100 is an attachment instead of a patch: announced,
// uploaded, completed.

import { attach } from '../lib/attachments.js';
import { ids } from '../lib/ids.js';
import { attachments, openModel } from '../lib/settings.js';
import { create, list, patch, read } from '../lib/tickets.js';

export { handleSummary } from '../lib/summary.js';
export const options = openModel({
  'http_req_duration{route:GET /tickets/{id}}': ['p(99)<250'],
  'http_req_duration{route:POST /tickets}': ['p(99)<250'],
});

export default function () {
  const chance = Math.random() * 100;
  if (chance >= 100 - attachments) attach(ids);
  else if (chance < 45) list();
  else if (chance < 80) read(ids);
  else if (chance < 93) create();
  else patch(ids);
}
