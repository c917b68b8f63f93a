// POST /tickets at RATE, several times what the service can do: refusals (503) are right answers,
// anything else is not, and what was accepted is answered in time.

import { openModel } from '../lib/settings.js';
import { create } from '../lib/tickets.js';

export { handleSummary } from '../lib/summary.js';
const thresholds = { failed: ['count==0'] };
export const options = openModel(thresholds);
delete options.thresholds.http_req_failed;
export default create;
