// GET /tickets/{id} at RATE requests a second, random ids of the file IDS.

import { ids } from '../lib/ids.js';
import { openModel } from '../lib/settings.js';
import { read } from '../lib/tickets.js';

export { handleSummary } from '../lib/summary.js';
export const options = openModel();

export default function () {
  read(ids);
}
