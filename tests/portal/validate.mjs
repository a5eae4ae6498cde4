// Checks entities as Backstage's catalog does: `node validate.mjs < entities.json`, a list of entities in.
// Out comes a list with an answer for each: {version: "" or what is wrong}, of two versions of @backstage/catalog-model.
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
    throw new Error(`no kind of these: ${entity.kind}`);
  };
}

const answers = [];
const models = { current: '@backstage/catalog-model', 'TAP 1.9': 'catalog-model-of-tap-1.9' };
for (const entity of JSON.parse(readFileSync(0, 'utf8'))) {
  const answer = {};
  for (const [version, name] of Object.entries(models)) {
    answer[version] = await checker(require(name))(entity).then(() => '', error => error.message);
  }
  answers.push(answer);
}
process.stdout.write(JSON.stringify(answers));
