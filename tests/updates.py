"""Two variables that an optimizer updates, on any number of replicas."""

import numpy as np
import tensorflow as tf

from ekd_tf.keras_compat import optimizer_variables
from ekd_tf.keras_compat import tf_variable
from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.update import GradientUpdate


def strategy_of(replicas):
    """Returns a strategy of so many replicas, and for 0 none."""
    if not replicas:
        return tf.distribute.get_strategy()
    # Collectives of a second strategy in one process clash with the first one's.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


class Run:
    """A weight (decaying) and a bias, updated with given gradients.

    `replicas=0` is no strategy at all; `optimizer` a name, or a function of a schedule.
    """

    def __init__(
        self,
        replicas=0,
        optimizer="sgd",
        schedule=0.1,
        momentum=0.9,
        gradient_dtype=tf.float32,
        weight=(1.0, 2.0),
        sampled=False,
        **arguments,
    ):
        self.strategy = strategy_of(replicas)
        self.replicas = max(replicas, 1)
        self.gradient_dtype = gradient_dtype
        with self.strategy.scope():
            self.weight = tf.Variable(np.float32(weight), name="weight")
            self.bias = tf.Variable([1.0], name="bias")
            if isinstance(optimizer, str):
                self.optimizer = make_optimizer(optimizer, schedule, momentum=momentum)
            else:
                self.optimizer = optimizer(schedule)
            self.update = GradientUpdate(
                self.optimizer,
                [self.weight, self.bias],
                decay_variables=[self.weight],
                sampled_variables=[self.weight] if sampled else (),
                **arguments,
            )
        self._step = tf.function(self._strategy_step)

    def _strategy_step(self, gradients):
        """Replica i is given `gradients[i]`, scaled as the loss would be."""

        def replica_step(index, gradients):
            mine = self.update.scale_loss(tf.gather(gradients, index))
            mine = tf.cast(mine, self.gradient_dtype)
            return self.update.apply([mine[:2], mine[2:]])

        if self.replicas == 1:
            return self.strategy.run(replica_step, args=(0, gradients))
        index = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(context.replica_id_in_sync_group)
        )
        return self.strategy.run(replica_step, args=(index, gradients))

    def step(self, *gradients):
        """Makes a step and returns its scalars, checked to agree everywhere."""
        assert len(gradients) == self.replicas
        scalars = self._step(tf.constant(gradients, tf.float32))
        result = {}
        for name, value in scalars.items():
            copies = self.strategy.experimental_local_results(value)
            assert all(copy.dtype == tf.float32 for copy in copies)
            assert all(copy.shape == () for copy in copies)
            np.testing.assert_array_equal(copies, copies[0])
            result[name] = float(copies[0])
        return result

    def copies(self, variable):
        local = self.strategy.experimental_local_results(tf_variable(variable))
        return [copy.numpy() for copy in local]

    def check(self, variable, expected, **tolerance):
        """Checks the numbers of a variable on every replica."""
        for copy in self.copies(variable):
            np.testing.assert_allclose(copy, expected, **{"rtol": 1e-6, **tolerance})

    @property
    def held(self):
        return [self.weight, self.bias, *optimizer_variables(self.optimizer)]

    def snapshot(self):
        """Every number of weight, bias and optimizer, on every replica."""
        return [copy for variable in self.held for copy in self.copies(variable)]

    @property
    def state(self):
        values = {}
        for name, variable in self.update.state.items():
            copies = self.copies(variable)
            np.testing.assert_array_equal(copies, copies[0])
            values[name] = copies[0]
        return values

    @property
    def iterations(self):
        return int(self.optimizer.iterations.numpy())
