"""The smallest network of every family of keras.applications: half of the units pruned and removed, same outputs."""

import keras
import numpy as np
import pytest
from support import settle, shake

from pruning_utils import prune_units, remove_dead_units

# smallest image, and how many times smaller at least; 1 where LayerNormalization or grouped convolutions keep units
FAMILIES = {
    "ConvNeXtTiny": (32, 1),
    "DenseNet121": (32, 3.5),
    "EfficientNetB0": (32, 3.5),
    "EfficientNetV2B0": (32, 3.5),
    "InceptionResNetV2": (75, 3),  # where units that more additions tie have larger norms together, and stay
    "InceptionV3": (75, 3.5),
    "MobileNet": (32, 3.5),
    "MobileNetV2": (32, 3.5),
    "MobileNetV3Small": (32, 2.5),
    "NASNetMobile": (32, 2.5),
    "ResNet50": (32, 3.5),
    "ResNet50V2": (32, 3.5),
    "VGG16": (32, 3.5),
    "Xception": (71, 3.5),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_half_of_the_units_can_be_removed(family):
    size, least = FAMILIES[family]
    options = {"input_shape": (size, size, 3), "classes": 10, "weights": None, "classifier_activation": None}
    model = shake(getattr(keras.applications, family)(**options), tame=True)
    x = np.random.default_rng(1).uniform(0, 255, (8, size, size, 3)).astype("float32")
    pruned = prune_units(settle(model, x), 0.5)
    small = remove_dead_units(pruned)
    wanted, found = (keras.ops.convert_to_numpy(m(x, training=False)) for m in (pruned, small))
    times, error = model.count_params() / small.count_params(), abs(found - wanted).max() / abs(wanted).max()
    print(f"{family}: {times:.2f} times smaller, outputs differ by {error:.0e} of the largest")
    assert np.ptp(wanted, axis=0).max() > 0.01 * abs(wanted).max()
    assert error < 1e-4
    assert times >= least
