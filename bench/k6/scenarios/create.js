// POST /tickets at RATE requests a second.

import { openModel } from '../lib/settings.js';
import { create } from '../lib/tickets.js';

export { handleSummary } from '../lib/summary.js';
export const options = openModel();
export default create;
