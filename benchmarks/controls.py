# The controls of the five seeds: the last cell of the walkthrough when benchmarks/seeds.py runs it. The names, and with
# them the recipe, are the notebook's. Leaves IMAGES/seed.csv: its rows and these, each with the validation accuracy.
BATCHES = {"batch_size": 2_500}
networks = {(name, "plain"): model for name, model in plain.items()}
networks |= {(name, "L1"): model for name, model in penalized.items()}
networks["FMNIST", "longer"] = longer
checks = [
    pu.sparsity_sweep(model, *validation[name], **BATCHES).assign(dataset=name, training=training)
    for (name, training), model in networks.items()
]
keys = ["dataset", "training", "method", "sparsity"]
checks = pd.concat(checks)[[*keys, "accuracy"]].rename(columns={"accuracy": "validation_accuracy"})
tables = [one_shot.merge(checks, on=keys), tuned]


def lots_for(variable):
    """Random importances, the same at every call."""
    return np.random.default_rng([SEED, *variable.path.encode()]).random(variable.shape)


def scored(model, name, **row):
    row |= {"dataset": name, "training": "L1", **pu.score(model, *test[name], dense=penalized[name], **BATCHES)}
    return pd.DataFrame([row | {"validation_accuracy": pu.score(model, *validation[name], **BATCHES)["accuracy"]}])


for name in data:
    # The same sweep with the weights and units to prune drawn by lot.
    drawn = pu.sparsity_sweep(penalized[name], *test[name], scores=lots_for, **BATCHES)
    drawn["validation_accuracy"] = pu.sparsity_sweep(
        penalized[name], *validation[name], scores=lots_for, **BATCHES
    ).accuracy
    tables.append(drawn.assign(dataset=name, training="L1", stage="one-shot", criterion="random"))

    # The shape of 90 % of the units pruned, from scratch, by the same steps: as many epochs in all, nothing pruned.
    small = pu.build_model([units // 10 for units in units_of(penalized[name])], seed=SEED)
    small.fit(*train(name), batch_size=256, epochs=EPOCHS, verbose=2)
    small = train_to_prune(small, name)
    # And the dense network trained on by the rule of fine-tuning: two steps, as to 90 %, nothing pruned.
    on = penalized[name]
    for _ in range(2):
        small, on = (train_to_prune(model, name, TUNE_EPOCHS) for model in (small, on))
    tables.append(scored(small, name, method="unit", sparsity=0.9, stage="scratch"))
    tables.append(scored(on, name, sparsity=0.0, stage="trained-on"))

table = pd.concat(tables).fillna({"criterion": "magnitude"}).assign(seed=SEED)
table.to_csv(Path(IMAGES) / "seed.csv", index=False, columns=["seed", *COLUMNS, "criterion", "validation_accuracy"])
