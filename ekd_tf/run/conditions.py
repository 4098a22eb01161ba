"""What gives a setting of a training run its effect."""

from __future__ import annotations

from ekd_tf.run.settings import Needs


def _distills(config, names):
    losses = {item.partition(":")[0] for item in config.distill.split(",")}
    return not losses.isdisjoint(names)


_CLASSIFY = ("kd", "gkd", "shrinkteanet", "margin_distillation", "proxyless_kd")
_OF_CENTRES = (*_CLASSIFY, "ekd_centres")
_SCALED = (*_CLASSIFY, "ada_distill")
CENTRES = Needs(
    f"one of {', '.join(_OF_CENTRES)} in --distill",
    lambda c: _distills(c, _OF_CENTRES),
)
HEAD = Needs("a --head", lambda c: c.head != "none")
SCALE = Needs(
    f"a --head, or one of {', '.join(_SCALED)} in --distill",
    lambda c: c.head != "none" or _distills(c, _SCALED),
)
INIT = Needs("--init", lambda c: c.init)
BALANCED = Needs("--balanced_identities above 0", lambda c: c.balanced_identities != 0)
STEPPED = Needs("--schedule=step", lambda c: c.schedule in (None, "step"))
DROPS = Needs("--lr_milestones", lambda c: c.lr_milestones)
EVALUATES = Needs(
    "--heldout_data, --holdout_identities or --eval_sets",
    lambda c: c.heldout_data or c.holdout_identities or c.eval_sets,
)
REPLICAS = Needs("--strategy=mirrored or multi_worker", lambda c: c.strategy != "none")


def of_model(flag: str) -> Needs:
    """Returns the condition of a flag that not every network has."""

    def holds(config):
        # Settings are read before TensorFlow, which takes seconds, is imported.
        from ekd_tf.run.student import takes

        return takes(config.model, flag)

    return Needs(f"a --model that has --{flag}", holds)
