// Backstage's backend with its catalog: `node portal.mjs --config app-config.yaml`.
// The module `unprocessed` reports which entities could not be processed, and why.
import { createBackend } from '@backstage/backend-defaults';

const backend = createBackend();
backend.add(import('@backstage/plugin-catalog-backend'));
backend.add(import('@backstage/plugin-catalog-backend-module-unprocessed'));
backend.start();
