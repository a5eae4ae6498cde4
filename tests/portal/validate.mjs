// Validates entities like Backstage's catalog: `node validate.mjs < entities.json`, which holds a list of entities.
// Prints for each the error message, or "", of two versions of @backstage/catalog-model: {version: message}.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const require = createRequire(import.meta.url);

function checker(model) {
  const policy = model.EntityPolicies.allOf([
    new model.SchemaValidEntityPolicy(),
    new model.DefaultNamespaceEntityPolicy(),
    new model.NoForeignRootFieldsEntityPolicy(),
    new model.FieldFormatEntityPolicy(),
  ]);
  const kinds = [
    model.apiEntityV1alpha1Validator,
    model.componentEntityV1alpha1Validator,
    model.groupEntityV1alpha1Validator,
    model.resourceEntityV1alpha1Validator,
    model.systemEntityV1alpha1Validator,
  ];
  return async entity => {
    const accepted = await policy.enforce(entity);
    for (const kind of kinds) {
      if (await kind.check(accepted)) return;
    }
    throw new Error(`unknown kind: ${entity.kind}`);
  };
}

const results = [];
const models = { current: '@backstage/catalog-model', 'TAP 1.9': 'catalog-model-of-tap-1.9' };
for (const entity of JSON.parse(readFileSync(0, 'utf8'))) {
  const messages = {};
  for (const [version, name] of Object.entries(models)) {
    messages[version] = await checker(require(name))(entity).then(() => '', error => error.message);
  }
  results.push(messages);
}
process.stdout.write(JSON.stringify(results));
