// Backstage's backend with its catalog, as an installation runs it: `node portal.mjs --config app-config.yaml`.
import { createBackend } from '@backstage/backend-defaults';

const backend = createBackend();
backend.add(import('@backstage/plugin-catalog-backend'));
backend.start();
