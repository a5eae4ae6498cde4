"""The network of a beginner's guide to Keras, trained as the guide does; prints test accuracy and seconds as JSON.

    python keras_network.py images.npz SEED

Three convolutions of 32, 64 and 64 channels, two of them before a max-pool, a dense layer of 64; Adam, 10 epochs of
batches of 32. The file holds train_images and test_images, uint8 [N, S, S, 3], and their labels. The clock starts at
the first epoch.
"""

import json
import sys
import time

import keras
import numpy as np

EPOCHS = 10


def main() -> None:
    arrays = np.load(sys.argv[1])
    keras.utils.set_random_seed(int(sys.argv[2]))
    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input(arrays["train_images"].shape[1:]),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(int(arrays["train_labels"].max()) + 1),
        ]
    )
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    started = time.perf_counter()
    network.fit(arrays["train_images"] / np.float32(255), arrays["train_labels"], epochs=EPOCHS, verbose=0)
    seconds = time.perf_counter() - started
    _, accuracy = network.evaluate(arrays["test_images"] / np.float32(255), arrays["test_labels"], verbose=0)
    print(json.dumps({"accuracy": float(accuracy), "seconds": seconds}))


if __name__ == "__main__":
    main()
