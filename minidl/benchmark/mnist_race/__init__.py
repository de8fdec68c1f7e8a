"""One program a library: from the start of a process to a test accuracy on MNIST.

    python own.py FILE.npz ACCURACY

Each stands alone and imports nothing of the others, as its user would write it. The recipe: a net
784-256-10 with ReLU; pixels less their mean, by their deviation; He's weights, those of the last
layer times 0.1; cross-entropy; batches of 128; Nesterov momentum 0.9; a learning rate that rises
to 0.1 in the first fifth of three epochs and falls to 0. After each epoch the test set is measured
and {"epochs": ..., "accuracy": ...} printed; a program ends when the accuracy is reached.
"""
