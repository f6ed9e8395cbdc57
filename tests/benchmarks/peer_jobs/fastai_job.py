"""fastai's ``fine_tune``: the head for one epoch, then everything, one cycle each.

https://docs.fast.ai/quick_start.html, "Computer vision classification" (image size by
``item_tfms=Resize``, ``fine_tune``) and https://docs.fast.ai/callback.schedule.html, ``fine_tune``
(base rate 0.002, one frozen epoch). A ``Learner`` around the same SqueezeNet takes the place of
``vision_learner``, which would put a wider head of its own on the network, and would have to
download the weights; the normalisation it adds is given by hand. Batch 64 and Adam are fastai's
defaults.
"""

from fastai.vision.all import (
    Callback,
    CrossEntropyLossFlat,
    ImageDataLoaders,
    Learner,
    Normalize,
    Resize,
    accuracy,
    imagenet_stats,
    params,
)
from safetensors.torch import load_file
from torchvision import models

from tests.benchmarks.peer_jobs.instrument import AfterEpoch, Spec, run


class Measured(Callback):
    """Tells the instrument of every epoch."""

    order = 90  # after fastai's own

    def __init__(self, after_epoch: AfterEpoch) -> None:
        self._after_epoch = after_epoch
        self._seen = 0

    def after_epoch(self):
        self._seen += len(self.learn.dls.train.dataset)
        self._after_epoch(self.learn.model, self._seen)


def main(spec: Spec, after_epoch: AfterEpoch) -> None:
    measured = Measured(after_epoch)
    # user code
    dls = ImageDataLoaders.from_folder(
        spec.images,
        valid="val",
        item_tfms=Resize(spec.crop),
        batch_tfms=Normalize.from_stats(*imagenet_stats),
        num_workers=spec.workers,
    )
    model = models.squeezenet1_0(num_classes=spec.classes)
    state = {k: v for k, v in load_file(spec.weights).items() if "classifier" not in k}
    model.load_state_dict(state, strict=False)
    learn = Learner(
        dls,
        model,
        loss_func=CrossEntropyLossFlat(),
        splitter=lambda m: [params(m.features), params(m.classifier)],
        metrics=accuracy,
        path=spec.scratch,
    )
    learn.freeze()
    learn.add_cb(measured)  # instrument
    learn.fine_tune(spec.epochs)
    # end of user code


if __name__ == "__main__":
    run(main)
