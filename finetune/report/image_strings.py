"""The words of the report that speak of drawn images, English and Chinese side by side; strings.py adds the others."""

from __future__ import annotations

# fmt: off
# ruff: noqa: E501
IMAGE_WORDS: dict[str, tuple[str, str]] = {
    "task.image-generation": ("image generation", "图像生成"),
    "images.test": ("{n} test images", "测试集 {n} 张图像"),
    "images.validation": ("{n} validation images", "验证集 {n} 张图像"),
    # ---- the verdict
    "drawn.untested": ("No baseline was tested beside this model.", "没有与任何基线做检验。"),
    "drawn.value": ("Test {metric} is {ours}.", "测试集 {metric} 为 {ours}。"),
    "drawn.floor": ("Test {metric} is {ours}; real images against other real ones have {floor}.", "测试集 {metric} 为 {ours}；真实图像对另一批真实图像为 {floor}。"),
    "drawn.recall": ("Its recall is {recall}: more than half of the real images lie where it draws nothing.", "其 recall 为 {recall}：过半的真实图像落在它不画之处。"),
    "compare.images": ("Test {metric}, the best first: {scores}. Nothing was tested: a difference may be chance.", "测试集 {metric}，最好的在前：{scores}。没有做检验：差别可能出于偶然。"),
    "compare.value": ("{name} {value}", "{name} {value}"),
    # ---- baselines
    "baseline.real_images": ("Real images against other real ones (the floor)", "真实图像对另一批真实图像（下限）"),
    "baseline.class_mean": ("Mean image of each class", "每类的平均图像"),
    "baseline.training_images": ("Training images handed out again", "原样交出训练图像"),
    "baseline.pixel_gaussian": ("Gaussian of the pixels", "像素的高斯分布"),
    # ---- what the scores say
    "drawn_score.loss": ("nats per image of the training loss, with its beta", "训练损失（含 beta），每张图像的奈特数"),
    "drawn_score.elbo": ("lower bound of the log-probability of a real image, in nats, summed over its pixels", "真实图像对数概率的下界（奈特），按像素求和"),
    "drawn_score.bits_per_dimension": ("the same in bits per number of an image; 8 is no compression", "同一量，以图像每个数值的比特计；8 即没有压缩"),
    "drawn_score.reconstruction_error": ("mean squared difference between a real image and its reconstruction, pixels from 0 to 1", "真实图像与其重建之间像素差平方的均值，像素取 0 到 1"),
    "drawn_score.frechet_distance": ("distance of two Gaussians fitted to features of drawn and real images; not FID unless so named", "对生成与真实图像的特征各拟合一个高斯，二者之间的距离；未注明即不是 FID"),
    "drawn_score.kernel_distance": ("squared maximum mean discrepancy of the features, unbiased, so it may fall below 0", "特征的最大均值差异之平方，无偏，因此可能小于 0"),
    "drawn_score.fid": ("Fréchet distance on Inception features of 2015-12-05", "在 2015-12-05 版 Inception 特征上的 Fréchet 距离"),
    "drawn_score.kid": ("kernel distance on the same features", "同一特征上的核距离"),
    "drawn_score.precision": ("share of drawn images that lie where real ones are", "落在真实图像所在之处的生成图像比例"),
    "drawn_score.recall": ("share of real images that lie where drawn ones are: low where the model draws few kinds", "落在生成图像所在之处的真实图像比例：模型只画少数几种时偏低"),
    "drawn_score.coverage": ("share of real images with a drawn one near them", "近旁有生成图像的真实图像比例"),
    "drawn_score.conditional_accuracy": ("share of drawn images that a classifier of real images takes for what was asked; the mean image of a class passes it, so read it beside recall", "被真实图像的分类器认作所要求之类的生成图像比例；每类的平均图像也能通过，故须与 recall 同看"),
    "drawn_score.train_on_synthetic": ("accuracy on real images of a classifier that learnt from drawn ones alone", "只从生成图像学习的分类器在真实图像上的准确率"),
    "caption.more_images": ("More scores of the same images", "同一批图像的其他分数"),
    "note.images": ("↓ lower is better. Scores compare only between models of the same data, features and counts.", "↓ 越低越好。只有数据、特征与数量都相同的模型之间，分数才可比较。"),
    "note.intervals_images": ("[ ] are 95 % intervals over images: they do not say how another seed would do.", "[ ] 为以图像为单位的 95 % 区间：它不说明换一个随机种子会怎样。"),
    "images": ("images", "图像数"),
    "paired.about_images": ("Approximate randomisation, two-sided; it swaps real images, or whole groups where there are groups. Each real image is covered, recalled or recognised, or it is not. Better means ahead with p below 0.05. Nobody has to beat training_images: a model that copies cannot be told from a perfect one by these scores.", "近似随机化检验（双侧）；按真实图像互换，有分组时按整组互换。每张真实图像要么被覆盖（召回、认出），要么没有。“更好”指领先且 p 小于 0.05。training_images 无须胜过：单凭这些分数，抄写的模型与完美的模型无法区分。"),
    # ---- pictures
    "grids": ("Drawn after every epoch", "各轮之后画出的图像"),
    "grids.about": ("The same random numbers every time: what changes is the model.", "每次使用同样的随机数：变化的只是模型。"),
    "grids.asked": ("Asked for in turn: {asked}.", "依次要求：{asked}。"),
    "grids.epoch": ("epoch {epoch}", "第 {epoch} 轮"),
    "grids.best": ("epoch {epoch}, in best/", "第 {epoch} 轮，存于 best/"),
    "grids.hidden": ("{shown} of {all} evaluations are shown; the others are in samples/.", "共 {all} 次评估，显示 {shown} 次；其余见 samples/。"),
    "nearest": ("Does it draw its training images again?", "它是在重画训练图像吗？"),
    "nearest.about": ("Above: the drawn images that are nearest to a training image, nearest first; below each: that training image.", "上：与训练图像最接近的生成图像，最接近的在前；下：对应的训练图像。"),
    "nearest.more": ("{share} of {drawn} drawn images are nearer to a training image than 95 % of the real {split} images are; of a model that draws new images it would be about 5 %. It draws training images again, or only few kinds.", "{drawn} 张生成图像中，{share} 比 95 % 的真实图像（{split}）更接近某张训练图像；画新图像的模型约为 5 %。它在重画训练图像，或只会画少数几种。"),
    "nearest.usual": ("{share} of {drawn} drawn images are nearer to a training image than 95 % of the real {split} images are; about 5 % is what new images have. Nothing here says that it copies.", "{drawn} 张生成图像中，{share} 比 95 % 的真实图像（{split}）更接近某张训练图像；新图像约为 5 %。没有迹象表明它在抄写训练图像。"),
    "nearest.copies": ("{n} of them are copies, equal in every pixel.", "其中 {n} 张与训练图像逐像素相同。"),
    "nearest.median_drawn": ("median distance of a drawn image to the nearest of {training} training images", "生成图像到最近训练图像（共 {training} 张）距离的中位数"),
    "nearest.median_real": ("the same of {real} real {split} images", "{real} 张真实图像（{split}）的同一数值"),
    "nearest.distance": ("Root of the mean squared difference of pixels, 0 to 1. A near neighbour in pixels may differ in what it shows, and a copy that is moved a little is far.", "像素差平方均值的平方根，0 到 1。像素相近者内容未必相同，而稍有移动的抄写距离却很大。"),
    "interpolation": ("Between two drawn images", "两张生成图像之间"),
    "interpolation.about": ("Each row goes from one latent to another in equal steps. Sudden jumps, or the same image all the way, are signs of memorising or of collapse.", "每行以等步长从一个潜变量走到另一个。突然跳变，或一路不变，是死记硬背或坍缩的迹象。"),
    "reconstructions": ("Reconstructions", "重建"),
    "reconstructions.about": ("Real {split} images, each followed by what the model makes of its latents.", "真实图像（{split}），每张之后是模型由其潜变量重建的图像。"),
    "alt.grid": ("Grid of drawn images, epoch {epoch}", "第 {epoch} 轮的生成图像网格"),
    "alt.nearest": ("Drawn images above their nearest training images", "生成图像及其下方最接近的训练图像"),
    "alt.interpolation": ("Rows of images between two latents", "两个潜变量之间的图像"),
    "alt.reconstructions": ("Real images beside their reconstructions", "真实图像与其重建"),
    # ---- the game
    "plot.game": ("Losses of both sides by epoch: neither falls for good while the game goes on", "双方的损失：博弈进行时都不会一直下降"),
    "plot.generator": ("generator", "生成器"),
    "plot.discriminator": ("discriminator", "判别器"),
    "plot.judged": ("What the discriminator takes for real, mean of sigmoid: near 0.5 for both it cannot tell them apart", "判别器认作真实的程度（sigmoid 均值）：两者都近 0.5 时它无法分辨"),
    "plot.judged_real": ("real, D(x)", "真实图像 D(x)"),
    "plot.judged_drawn": ("drawn, D(G(z))", "生成图像 D(G(z))"),
}
# fmt: on
