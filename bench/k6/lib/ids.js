// The ids of the seeded tickets, one a line in the file IDS, shared by all virtual users.

import { SharedArray } from 'k6/data';

export const ids = new SharedArray('ids', () => open(__ENV.IDS).trim().split('\n'));
