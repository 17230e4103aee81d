"""What learners share: networks with heads, student and teacher, and measures of embeddings."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsdino.job import gather
from wsdino.model.backbone import class_weights, plain_attention
from wsdino.train.head import ProjectionHead, TogetherHead
from wsdino.train.loss import attention_loss, koleo_loss
from wsdino.train.metrics import effective_rank, spread
from wsdino.train.schedules import cosine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timm.models.vision_transformer import VisionTransformer

    from wsdino.model.networks import ChannelNetworks
    from wsdino.train.objectives.base import Measured, Metrics, TeacherOptions

# A graph break is an error instead of being silently slow; shapes never change.
COMPILED: dict[str, Any] = {"fullgraph": True, "dynamic": False}
_ASKED = ("objective.attention_weight needs", "0 leaves it out")


class HeadedNetworks(nn.Module):
    """Backbones, each with its own head.

    Parameters
    ----------
    networks
        The backbones.
    heads
        One for each of them.
    """

    def __init__(self, networks: ChannelNetworks, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks, self.heads = networks, nn.ModuleList(heads)
        # Of each network: the input of its last attention, and the attention loss of the last
        # forward pass, where that is asked for.
        self._attended: list[Tensor] = []
        self.attention_losses: list[Tensor] = []

    def measure_attention(self) -> None:
        """From now on, find the attention loss of the first resolution in each forward pass.

        Raises
        ------
        ModelError
            If a backbone has no class token or no plain self-attention.
        """
        self._attended = [torch.zeros(0) for _ in self.networks.networks]
        for index, network in enumerate(self.networks.networks):

            def keep(_: nn.Module, given: tuple[Tensor, ...], index: int = index) -> None:
                self._attended[index] = given[0]

            plain_attention(network, *_ASKED).register_forward_pre_hook(keep)

    def forward(self, views: Sequence[Tensor]) -> tuple[list[Tensor], list[Any]]:
        """Run each resolution once through each network.

        Parameters
        ----------
        views
            One (V, B, C, h, w) tensor for each resolution.

        Returns
        -------
        features, scores
            For each network: features (V0, N, D) of the first resolution, and what its head makes
            of all (V, N, D), where N = B, or B * C for the shared network.
        """
        parts = [self.networks.split(x.flatten(0, 1)) for x in views]
        all_features, all_scores = [], []
        self.attention_losses = []
        for index, (network, head) in enumerate(
            zip(self.networks.networks, self.heads, strict=True)
        ):
            features = []
            for number, (part, x) in enumerate(zip(parts, views, strict=True)):
                features.append(network(part[index]).unflatten(0, (len(x), -1)))
                if self._attended and not number:
                    images = part[index].unflatten(0, (len(x), -1))
                    lost = _lost_attention(network, self._attended[index], images)
                    self.attention_losses.append(lost)
            all_features.append(features[0])
            all_scores.append(head(torch.cat(features)))
        return all_features, all_scores


class StudentTeacher(nn.Module):
    """A student, and a teacher that is the student's moving average (arXiv 2104.14294).

    Every network has its own teacher and heads, and the losses add up, so that ``per_channel``
    networks train as if alone.

    Parameters
    ----------
    student, teacher
        Networks of the same shape; the teacher starts as a copy of the student.
    heads
        The student's, one for each network.
    options
        Teacher's momentum and weight of KoLeo.
    epochs
        Length of the run, for the schedules.
    """

    def __init__(
        self,
        student: ChannelNetworks,
        teacher: ChannelNetworks,
        *,
        heads: Sequence[ProjectionHead],
        options: TeacherOptions,
        epochs: float,
    ) -> None:
        super().__init__()
        self.epochs = epochs
        self.trainable = HeadedNetworks(student, heads)
        self.teacher = HeadedNetworks(teacher, copy.deepcopy(list(heads)))
        self.teacher.load_state_dict(self.trainable.state_dict())
        self.teacher.requires_grad_(requires_grad=False)
        # Stochastic depth is for the student alone.
        self.teacher.eval()
        self._shared = options
        if options.attention_weight:
            self.trainable.measure_attention()
        self._momentum = options.teacher_momentum
        # The teacher's features of the last batch, (V, N, D) of each network.
        self._features: list[Tensor] = []

    def begin(self) -> None:
        """Nothing more is needed."""

    def compile_parts(self) -> None:
        """Compile student and teacher."""
        for headed in (self.trainable, self.teacher):
            headed.compile(**COMPILED)

    def train(self, mode: bool = True) -> Self:
        """Set the student's mode; the teacher always evaluates."""
        self.trainable.train(mode)
        return self

    def before_step(self, epoch: float) -> Metrics:
        """Set the teacher's momentum."""
        step, total = thousandths(epoch), thousandths(self.epochs)
        start, end = self._shared.teacher_momentum, self._shared.final_teacher_momentum
        self._momentum = cosine(step, start=start, end=end, total=total)
        return {"teacher_momentum": self._momentum}

    def with_terms(self, total: Tensor, features: list[Tensor]) -> tuple[Tensor, Measured]:
        """Add KoLeo's and the attention's loss of the global views to a loss, and measure them.

        Parameters
        ----------
        total
            Scalar: the sum over the networks.
        features
            The student's (V, N, D) of each network.
        """
        # Logged per network, so that channel modes compare.
        metrics = {"loss": total.detach() / len(features)}
        if self._shared.koleo_weight:
            koleo = torch.stack([koleo_loss(view) for views in features for view in views]).sum()
            total = total + self._shared.koleo_weight * koleo
            metrics["koleo"] = koleo.detach() / sum(len(views) for views in features)
        if self._shared.attention_weight:
            lost = torch.stack(self.trainable.attention_losses)
            total = total + self._shared.attention_weight * lost.sum()
            metrics["attention"] = lost.detach().mean()
        return total, metrics

    def after_backward(self, epoch: float) -> None:
        """Leave the gradients as they are."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the teacher towards the student."""
        update_ema(self.teacher, self.trainable, momentum=self._momentum)

    def image_features(self) -> Tensor:
        """Teacher's embedding (V, n, F) of the global views of the last batch."""
        return by_image(self._features, self.teacher.networks)

    def exported(self) -> ChannelNetworks:
        """Return the teacher's backbones."""
        return self.teacher.networks


def _lost_attention(backbone: nn.Module, tokens: Tensor, images: Tensor) -> Tensor:
    """Attention loss from the input of the last attention, of images (V, N, C, h, w)."""
    vit = cast("VisionTransformer", backbone)
    weights = class_weights(plain_attention(vit, *_ASKED), tokens)[..., vit.num_prefix_tokens :]
    patches = functional.avg_pool2d(images.mean(dim=2), vit.patch_embed.patch_size)
    return attention_loss(weights.unflatten(0, images.shape[:2]), patches.flatten(2))


def projection_head(options: TeacherOptions, dim: int) -> ProjectionHead:
    """Build a head without prototypes for features of a length."""
    return ProjectionHead(
        dim,
        hidden_dim=options.head_hidden_dim,
        bottleneck_dim=options.head_bottleneck_dim,
        batch_norm=options.head_batch_norm,
    )


def together_heads(
    options: TeacherOptions, networks: ChannelNetworks, *, bottleneck_dim: int
) -> list[TogetherHead]:
    """Build a head for each network that sees all of its inputs of an image at once."""
    return [
        TogetherHead(
            networks.dim,
            networks.views_per_image,
            hidden_dim=options.head_hidden_dim,
            bottleneck_dim=bottleneck_dim,
            batch_norm=options.head_batch_norm,
        )
        for _ in networks.networks
    ]


def thousandths(epoch: float) -> int:
    """Count schedules in thousandths of an epoch, so that they don't depend on the batch size."""
    return round(epoch * 1000)


def spread_and_rank(features: Sequence[Tensor]) -> Metrics:
    """Measure the embedding (V, N, D) of each network over all processes; average the networks."""
    flat = [gather(x.float().flatten(0, 1)) for x in features]
    return {
        "embedding_std": sum(float(spread(x)) for x in flat) / len(flat),
        "embedding_rank": sum(float(effective_rank(x)) for x in flat) / len(flat),
    }


def by_image(features: Sequence[Tensor], networks: ChannelNetworks) -> Tensor:
    """One vector per image, from one (V, N, D) tensor for each network: (V, n, F)."""
    inputs = networks.views_per_image
    return torch.cat([x.unflatten(1, (-1, inputs)).flatten(2) for x in features], dim=2)


@torch.no_grad()
def update_ema(average: nn.Module, current: nn.Module, *, momentum: float) -> None:
    """Set average <- momentum * average + (1 - momentum) * current, for all parameters.

    Buffers are copied.
    """
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - momentum)
    for ours, theirs in zip(average.buffers(), current.buffers(), strict=True):
        ours.copy_(theirs)
