"""How images are read, what is to draw them, and how it learns: the sections of task image-generation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from finetune.recipe_data import Shares, SourceNames
from finetune.recipe_model import DEFAULT_MODEL
from finetune.recipe_parts import Evaluation, Number, Section, WholeNumber, no_repeats
from finetune.recipe_training import AnyTraining

ImageMetric = Literal[
    "loss",
    "elbo",
    "bits_per_dimension",
    "reconstruction_error",
    "frechet_distance",
    "kernel_distance",
    "precision",
    "recall",
    "coverage",
    "conditional_accuracy",
    "train_on_synthetic",
    "fid",
    "kid",
]
ImageBaselineName = Literal["class_mean", "training_images", "pixel_gaussian"]
ImageKind = Literal["vae", "gan", "style"]


class ImageColumns(Section):
    """Which columns of the source mean what; the folder of an image, or the file of labels, fills `label`."""

    image: str = Field("image", min_length=1, description="Column of the image.")
    label: str | None = Field("label", min_length=1, description="Column of the class; null where there is none.")
    caption: str | None = Field(None, min_length=1, description="Column of a text about the image.")
    group: str | None = Field(None, min_length=1, description="Images that share this value stay in one split.")
    id: str | None = Field(None, min_length=1, description="Column of a stable id; default is file name and row.")


class ImageSplit(Shares):
    """Shares of the three splits of images."""

    stratify: bool = Field(True, description="Keep the shares of the labels alike in every split.")


class ImageData(Section):
    """Images, with labels or captions or alone."""

    source: SourceNames = Field(
        description="A folder or archive of images, idx files, tables with an image column, builtin:digits, a Hub "
        "name, a list of these, or one per split."
    )
    columns: ImageColumns = Field(ImageColumns(), description="Column mapping.")
    split: ImageSplit = Field(ImageSplit(), description="Shares of the splits.")
    limit: WholeNumber | None = Field(None, ge=1, description="Use a seeded sample of this many images a source.")
    near_duplicates: Number | None = Field(
        0.99,
        gt=0.5,
        le=1,
        description="Correlation of two images, shrunk alike, from which they are one family, which stays in one "
        "split; null counts exact duplicates only.",
    )
    leaks: Literal["refuse", "move", "warn"] = Field(
        "refuse",
        description="When splits you bring share images or groups with test: stop, move them to train, or warn.",
    )
    most_pixels: WholeNumber = Field(
        50_000_000, ge=64, description="An image of more pixels is refused before it is decoded."
    )
    broken: Literal["refuse", "skip"] = Field("refuse", description="Files that are no image: stop, or skip and count.")


class ImageAugmentation(Section):
    """Changes of training images; of a GAN the same change is made to real and drawn images before each judgement."""

    flip: bool = Field(False, description="Mirror left and right, every second time.")
    translate: Number = Field(0.0, ge=0, le=0.5, description="Shift by up to this share of the size, in whole pixels.")
    rotate: Number = Field(0.0, ge=0, le=180, description="Turn by up to this many degrees.")
    scale: Number = Field(0.0, ge=0, lt=1, description="Shrink or enlarge by up to this share.")
    cutout: Number = Field(0.0, ge=0, le=0.9, description="Blank a square of this share of the size.")
    colour: Number = Field(0.0, ge=0, le=1, description="Change brightness, contrast and saturation by up to this.")


class Images(Section):
    """How images are read and what goes with them."""

    size: WholeNumber = Field(32, ge=8, le=1024, description="Side of the square in pixels; training takes up to 256.")
    channels: Literal["grey", "colour"] = Field("grey", description="One channel, or three.")
    resize: Literal["crop", "pad", "stretch"] = Field(
        "crop", description="An image that is not square: cut its middle, add borders, or distort it."
    )
    condition: Literal["none", "label", "caption"] = Field(
        "none", description="What is asked for when an image is drawn: nothing, a label, or a text."
    )
    captions: Annotated[list[str], AfterValidator(no_repeats)] = Field(
        [], description="Templates that make captions of labels, such as 'a handwritten {label}'."
    )
    label_words: dict[str, str] = Field({}, description="What {label} says in captions, such as 7: seven.")
    text_encoder: str = Field(DEFAULT_MODEL, min_length=1, description="Sentence encoder of captions and prompts.")
    augment: ImageAugmentation = Field(ImageAugmentation(), description="Changes of training images.")

    @model_validator(mode="after")
    def _captions_are_asked_for(self) -> Images:
        if self.condition != "caption":
            for key in ("captions", "label_words"):
                if getattr(self, key):
                    raise ValueError(f"{key} is for condition 'caption', and condition is '{self.condition}'")
            if self.text_encoder != DEFAULT_MODEL:
                raise ValueError(f"text_encoder is for condition 'caption', and condition is '{self.condition}'")
        strange = [template for template in self.captions if "{label}" not in template]
        if strange:
            raise ValueError(f"captions: '{strange[0]}' does not say {{label}}")
        return self


class Vae(Section):
    """A variational autoencoder (Kingma and Welling 2014) with residual convolutions."""

    latent_size: WholeNumber = Field(32, ge=1, le=4096, description="Numbers that an image is encoded into.")
    width: WholeNumber = Field(32, ge=4, le=1024, description="Channels of the widest resolution; doubled on the way.")
    likelihood: Literal["bernoulli", "gaussian", "learned_variance"] = Field(
        "learned_variance",
        description="Of a pixel: a share of white, a Gaussian of fixed or of one learned variance.",
    )
    beta: Number = Field(1.0, gt=0, description="Weight of the divergence from the prior; 1 is the ELBO.")


class Adversary(Section):
    """What the adversarial games have in common."""

    latent_size: WholeNumber = Field(64, ge=1, le=4096, description="Numbers that an image is drawn from.")
    width: WholeNumber = Field(32, ge=4, le=1024, description="Channels at the full size; doubled on the way down.")
    loss: Literal["non_saturating", "hinge"] = Field("non_saturating", description="What the two sides minimise.")
    r1_weight: Number = Field(0.0, ge=0, description="Weight of the gradient penalty on real images (R1); 0 is off.")
    r1_interval: WholeNumber = Field(16, ge=1, description="The penalty is taken every so many steps.")
    spectral_norm: bool = Field(True, description="Divide the discriminator's weights by their largest singular value.")
    ema_half_life_images: Number = Field(
        5_000, gt=0, description="Images after which the averaged generator has forgotten half; it is what is saved."
    )
    discriminator_learning_rate: Number | None = Field(
        None, gt=0, description="Learning rate of the discriminator; default is training.learning_rate."
    )
    discriminator_steps: WholeNumber = Field(1, ge=1, le=16, description="Discriminator steps a generator step.")


class Gan(Adversary):
    """A residual generator and discriminator; labels enter by projection (Miyato and Koyama 2018)."""


class Style(Adversary):
    """A style-based generator: a mapping network to w, layers modulated by it, noise (Karras et al. 2020)."""

    latent_size: WholeNumber = Field(512, ge=1, le=4096, description="Numbers of z, and of w.")
    mapping_layers: WholeNumber = Field(8, ge=1, le=16, description="Layers of the mapping network.")
    style_mixing: Number = Field(0.5, ge=0, le=1, description="Share of training images drawn from two w.")
    r1_weight: Number = Field(1.0, ge=0, description="Weight of the gradient penalty on real images (R1); 0 is off.")
    spectral_norm: bool = Field(
        False, description="Divide the discriminator's weights by their largest singular value."
    )


class ImageModel(Section):
    """What draws: `vae`, `gan` or `style` with its sizes, or `name`, a finished one to go on from."""

    name: str | None = Field(None, min_length=1, description="A finished image model: a folder, or a Hub name.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub name.")
    vae: Vae | None = Field(None, description="A variational autoencoder.")
    gan: Gan | None = Field(None, description="A generator and a discriminator.")
    style: Style | None = Field(None, description="A style-based generator and a discriminator.")

    @model_validator(mode="after")
    def _one_of_them(self) -> ImageModel:
        named = [key for key in ("name", "vae", "gan", "style") if getattr(self, key) is not None]
        if len(named) != 1:
            raise ValueError(f"needs one of vae, gan, style and name; found {' and '.join(named) or 'none'}")
        if self.revision is not None and self.name is None:
            raise ValueError("revision needs a name")
        return self


class ImageTraining(AnyTraining):
    """transformers' own names, counted in images."""

    num_train_epochs: WholeNumber = Field(20, ge=1, description="Epochs; each ends with an evaluation and a grid.")
    passes_per_epoch: WholeNumber = Field(
        1, ge=1, description="Passes over the training images in an epoch; a small set wants many."
    )
    learning_rate: Number = Field(1e-3, gt=0, description="Peak learning rate.")
    per_device_train_batch_size: WholeNumber = Field(64, ge=2, description="Images a step and process.")
    optim: Literal["adam", "adamw", "sgd"] = Field("adam", description="Optimizer.")
    adam_beta1: Number | None = Field(None, ge=0, lt=1, description="Of Adam: default .9, of the adversaries 0.")
    adam_beta2: Number | None = Field(None, ge=0, lt=1, description="Of Adam: default .999, of the adversaries .99.")
    momentum: Number = Field(0.0, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: Number = Field(0.0, ge=0, description="Weight decay of adamw and sgd.")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(
        "constant", description="Shape of the learning rate after warm-up."
    )
    warmup_steps: Number = Field(0, ge=0, description="Warm-up: steps, or a share of all steps when below 1.")
    max_grad_norm: Number = Field(0.0, ge=0, description="Clip the gradient norm; 0 is off.")
    metric_for_best_model: ImageMetric = Field(
        description="Validation score that chooses the epoch; default is elbo of a vae, kernel_distance of the others."
    )

    @model_validator(mode="after")
    def _optimizer_has_them(self) -> ImageTraining:
        if self.optim == "adam" and self.weight_decay:
            raise ValueError("weight_decay is of adamw and sgd, and optim is 'adam'")
        if self.optim != "sgd" and self.momentum:
            raise ValueError(f"momentum is of sgd, and optim is '{self.optim}'")
        if self.optim == "sgd" and (self.adam_beta1 is not None or self.adam_beta2 is not None):
            raise ValueError("adam_beta1 and adam_beta2 are of adam and adamw, and optim is 'sgd'")
        return self


class ImageEvaluation(Evaluation):
    """What stands beside the scores of drawn images."""

    baselines: Annotated[list[ImageBaselineName], AfterValidator(no_repeats)] = Field(  # type: ignore[assignment]
        ["class_mean", "training_images"],
        description="class_mean paints the mean of each class, training_images hands out training images again, "
        "pixel_gaussian draws from a Gaussian of the pixels.",
    )
    count: WholeNumber | None = Field(
        None, ge=16, description="Images drawn for each evaluation; default as many as the split has, at most 10,000."
    )
    features: Literal["classifier", "pixels", "inception"] = Field(
        "classifier",
        description="What distances are measured in: the last hidden layer of a classifier trained on the training "
        "images (pixels where there are no labels), the pixels, or Inception for fid and kid.",
    )
    inception: str | None = Field(None, min_length=1, description="File of the 2015-12-05 Inception weights, for fid.")
    neighbours: WholeNumber = Field(5, ge=1, le=100, description="k of precision, recall and coverage.")
    shown: WholeNumber = Field(64, ge=4, le=1024, description="Images of a grid.")
