"""Profiles: the profile of a weak label, whitened by the labels, is what each view must tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsdino import job
from wsdino.train.learners.base import StudentTeacher, spread_and_rank, together_heads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from wsdino.model.networks import ChannelNetworks
    from wsdino.train.objectives.base import Measured, Metrics
    from wsdino.train.objectives.profiles import Options


class Profiles(StudentTeacher):
    """Each view of the student must point to the profile of its image's weak label.

    The profiles come from whitening by weak label what the network says of the screen before it
    learns (:func:`wsdino.profile.label_profiles.label_profiles`), and stay as they are. A profile
    is a mean over wells of several plates, so that what one view can't tell of it is noise and the
    technical differences between plates; and labels whose images look alike have profiles that are
    alike, so that, unlike a classifier, the network isn't asked to tell them apart. The loss is one
    minus the cosine. The teacher only embeds: it is the student's moving average.

    Parameters
    ----------
    student, teacher
        Networks of the same shape; the teacher starts as a copy of the student.
    options
        Head and teacher.
    epochs
        Length of the run, for the schedules.
    num_labels
        Number of weak labels, L.
    label_profiles
        See :class:`~wsdino.train.objectives.base.Parts`.
    """

    def __init__(
        self,
        student: ChannelNetworks,
        teacher: ChannelNetworks,
        *,
        options: Options,
        epochs: float,
        num_labels: int,
        label_profiles: Callable[[int], NDArray[np.float32]],
    ) -> None:
        # L profiles around their mean have L - 1 dimensions.
        num_components = min(options.head_bottleneck_dim, num_labels - 1)
        heads = together_heads(options, student, bottleneck_dim=num_components)
        super().__init__(student, teacher, heads=heads, options=options, epochs=epochs)
        self._find_profiles = label_profiles
        self.label_profiles: Tensor
        self.register_buffer("label_profiles", torch.zeros(num_labels, num_components))

    def begin(self) -> None:
        """Take the profiles of the labels; a run that is resumed has them in its checkpoint."""
        num_components = self.label_profiles.shape[1]
        found = job.only_first(lambda: self._find_profiles(num_components).tolist())
        self.label_profiles.copy_(torch.tensor(found))

    @torch.no_grad()
    def target(self, views: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Profiles (1, B, components) of the images' labels."""
        self._features, _ = self.teacher(views[:1])
        return [self.label_profiles[labels][None]]

    def loss(
        self, trainable: nn.Module, views: Sequence[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Measured]:
        """One minus the cosine, mean over views, summed over networks, plus the shared terms."""
        features, scores = trainable(views)
        cosines = torch.stack([(vectors * targets[0]).sum(dim=-1).mean() for (vectors,) in scores])
        total, metrics = self.with_terms((1 - cosines).sum(), features)
        return total, metrics | {"cosine": cosines.detach().mean()}

    def diagnostics(self) -> Metrics:
        """Spread and rank of the embedding."""
        return spread_and_rank(self._features)
