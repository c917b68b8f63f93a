// An attachment of 16 KB on its way: announced to ticketd, uploaded to S3, completed at ticketd.

import crypto from 'k6/crypto';
import http from 'k6/http';
import { baseUrl } from './settings.js';
import { account, any, authorization } from './tickets.js';

const CONTENT = 'Журнал ошибок принтера, строка за строкой. '.repeat(210);
const ANNOUNCED = JSON.stringify({
  name: 'журнал ошибок.txt',
  content_type: 'text/plain',
  size: crypto.hexEncode(CONTENT).length / 2,
  sha256: crypto.sha256(CONTENT, 'hex'),
});
// The name stands for all URLs of a step: those of S3 are all different.
const step = (name, more) => ({ tags: { route: name, name }, ...more });
const announcing = step('POST /tickets/{id}/attachments', {
  headers: { ...authorization, 'Content-Type': 'application/json' },
  responseType: 'text',
});
const completing = step('POST /tickets/{id}/attachments/{attachment_id}/complete', {
  headers: authorization,
});

export function attach(ids) {
  const path = `${baseUrl}/tickets/${any(ids)}/attachments`;
  const answer = http.post(path, ANNOUNCED, announcing);
  account(answer, 201);
  if (answer.status !== 201) return;
  const { attachment, upload } = answer.json();
  const { 'Content-Length': length, ...headers } = upload.headers;
  account(http.put(upload.url, CONTENT, step('PUT to S3', { headers })), 200);
  account(http.post(`${path}/${attachment.id}/complete`, null, completing), 200);
}
