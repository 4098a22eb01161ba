import tensorflow as tf

from ekd_tf.mining.miner import compiled


class Scale:
    """Counts how often Python visits its method."""

    def __init__(self, factor):
        self.factor = factor
        self.visits = 0

    @compiled
    def times(self, x, power=1):
        """Returns `factor * x ** power`."""
        self.visits += 1
        return self.factor * x**power


def test_called_op_by_op_it_is_traced_once_for_each_object():
    two, three = Scale(2.0), Scale(3.0)
    for value in (1.0, 5.0):
        assert float(two.times(tf.constant(value))) == 2 * value
        assert float(three.times(tf.constant(value), power=2)) == 3 * value**2
    assert two.visits == three.visits == 1


def test_inside_a_trace_it_is_no_function_of_its_own():
    scale = Scale(2.0)

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = scale.times(x, power=3)
        return value, tape.gradient(value, x)

    value, gradient = step(tf.constant(2.0))
    assert (float(value), float(gradient)) == (16.0, 24.0)
    graph = step.get_concrete_function(tf.constant(2.0)).graph
    assert not [op for op in graph.get_operations() if "Call" in op.type]
    assert scale.visits == 1
