// The requests, tagged by their route. Bodies are unique and in Cyrillic.

import exec from 'k6/execution';
import http from 'k6/http';
import { Counter } from 'k6/metrics';
import { baseUrl, run, token } from './settings.js';

const refused = new Counter('refused');
const failed = new Counter('failed');

export const authorization = token ? { Authorization: `Bearer ${token}` } : {};
const tags = (route) => ({ route });
const reading = { headers: authorization, tags: tags('GET /tickets/{id}') };
const listing = { headers: authorization, tags: tags('GET /tickets') };
const creating = {
  headers: { ...authorization, 'Content-Type': 'application/json' },
  tags: tags('POST /tickets'),
};
const patching = {
  headers: { ...authorization, 'Content-Type': 'application/merge-patch+json', 'If-Match': '*' },
  tags: tags('PATCH /tickets/{id}'),
};

const BEFORE = '{"title":"Не печатает принтер № ';
const AFTER =
  '","description":"Горит красная лампа, в лотке есть бумага. Перезапуск не помог, драйвер ' +
  'обновлён вчера. Отдел закупок, третий этаж, кабинет 314; звонить до шести вечера.",' +
  '"requester":"анна.петрова@example.org","priority":"high"}';
const QUERIES = ['', '?status=new', '?priority=urgent', '?status=in_progress&priority=high'];

const number = () => `${run}-${exec.scenario.iterationInTest}`;
export const any = (values) => values[Math.floor(Math.random() * values.length)];

// 503 is a refusal, the honest answer of an overloaded service; anything else unexpected is a failure.
export function account(response, expected) {
  if (response.status === 503) refused.add(1);
  else if (response.status !== expected) failed.add(1);
}

export function create() {
  account(http.post(`${baseUrl}/tickets`, BEFORE + number() + AFTER, creating), 201);
}

export function read(ids) {
  account(http.get(http.url`${baseUrl}/tickets/${any(ids)}`, reading), 200);
}

export function list() {
  account(http.get(`${baseUrl}/tickets${any(QUERIES)}`, listing), 200);
}

export function patch(ids) {
  const body = `{"priority":"normal","description":"Мастер придёт завтра, заявка ${number()}"}`;
  account(http.patch(http.url`${baseUrl}/tickets/${any(ids)}`, body, patching), 200);
}
