"""What benchmarks/cpn_figures.py measures of draws of z."""

import numpy as np
import scipy.ndimage
import scipy.special
import tensorflow as tf

from vae_arbcond.conditioners import GridPosterior

POINTS, COARSE = 100, 20  # cells along an axis: of the grid, of histograms
AT_ONCE = 50  # draws decoded at once
LIKELIHOOD_DRAWS, IMAGES = 500, 100  # draws of z: the paper's 500; completed images


class Measures:
    """Of draws for the same questions.

    Args:
      model, spec: the VAE and the shape of its data.
      x: images [B, 28, 28].
      observed: bool [B, 28, 28].
    """

    def __init__(self, model, spec, x, observed):
        self.model, self.x, self.observed = model, x, observed
        self.grid = GridPosterior(model, POINTS, train_model=False)
        self.grid.build_for(spec)
        self.exact = self.grid.posterior(x, observed)
        centres = self.exact.centres()  # [G, B, 2]
        joint = np.concatenate(
            [self.parts(centres[i : i + AT_ONCE])[0] for i in range(0, len(centres), AT_ONCE)]
        )
        self.log_evidence = scipy.special.logsumexp(joint, 0) + self.exact.log_cell().numpy()
        self.centres = centres

    def facts(self):
        """Of the exact posterior itself; nats, averages over questions."""
        given = self.exact_query_log_likelihood()
        return {
            "log p(x_o)": float(self.log_evidence.mean()),
            "log p(x_u | x_o)": float(given.mean()),
            "grid cells, effective, least": float(
                np.min(self.grid.cells(self.x, self.observed))
            ),
            "each": {"log p(x_u | x_o)": given.round(3).tolist()},
        }

    def exact_query_log_likelihood(self):
        """log p(x) - log p(x_o), both sums over grids: [B]."""
        everything = tf.ones_like(self.observed)
        return self.grid.log_evidence(self.x, everything).numpy() - self.log_evidence

    @tf.function(reduce_retracing=True, autograph=False)
    def _parts(self, z):
        likelihood = self.model.likelihood(z)
        each = likelihood.log_prob(self.x)
        seen = tf.reduce_sum(tf.where(self.observed, each, 0.0), [-1, -2])
        hidden = tf.reduce_sum(tf.where(self.observed, 0.0, each), [-1, -2])
        return seen + self.model.prior().log_prob(z), hidden

    def parts(self, z):
        """log p(x_o, z) and log p(x_u | z) at z [S, B, 2]: each [S, B]."""
        several = [self._parts(z[i : i + AT_ONCE]) for i in range(0, len(z), AT_ONCE)]
        return [np.concatenate(part) for part in zip(*several, strict=True)]

    def gaps(self, z, log_q):
        """KL(q || exact) of each question: log p(x_o) less the C-ELBO, [B]."""
        return (np.asarray(log_q) - self.parts(z)[0]).mean(0) + self.log_evidence

    def __call__(self, z, log_q, density):
        """The measures of one method.

        Args:
          z: its draws [S, B, 2].
          log_q: of them, [S, B]; None where the method has no bound.
          density: log q, [G, B, 2] -> [G, B]; None where it has none.
        """
        told, each = {}, {}
        joint, hidden = self.parts(z)
        if log_q is not None:
            values = joint - np.asarray(log_q)
            each["bound"] = values.mean(0)
            told["bound"] = float(values.mean())
            told["KL(q || exact)"] = float((self.log_evidence - values.mean(0)).mean())
            told["stderr"] = float(
                np.sqrt((values.var(0, ddof=1) / len(values)).sum()) / values.shape[1]
            )
            told["worst"] = float((self.log_evidence - values.mean(0)).max())
        if density is not None:
            mass = np.exp(self.exact.log_mass.numpy().T)
            log_p = self.exact.log_density_of_cells().numpy()
            gap = log_p - density(self.centres).numpy()
            told["KL(exact || q)"] = float(np.where(mass > 0, mass * gap, 0.0).sum(0).mean())
        reverse, forward = self.histograms(np.asarray(z))
        told["KL(histogram || exact)"] = float(reverse.mean())
        told["KL(exact || histogram)"] = float(forward.mean())
        few = hidden[:: max(1, len(hidden) // LIKELIHOOD_DRAWS)][:LIKELIHOOD_DRAWS]
        each["log p(x_u | x_o)"] = scipy.special.logsumexp(few, 0) - np.log(len(few))
        told["log p(x_u | x_o)"] = float(each["log p(x_u | x_o)"].mean())
        images = self.completed(z[:: max(1, len(z) // IMAGES)][:IMAGES])
        x = self.x.numpy()
        each["SSIM"] = np.stack([ssim(image, x) for image in images]).mean(0)
        each["diversity"] = images.std(0).mean((1, 2))
        for key in ("SSIM", "diversity"):
            told[key] = float(each[key].mean())
        return told | {"each": {key: v.round(4).tolist() for key, v in each.items()}}

    def completed(self, z):
        """Decoder means with the evidence in its place: [S, B, 28, 28]."""
        means = [
            self.model.likelihood(z[i : i + AT_ONCE]).mean() for i in range(0, len(z), AT_ONCE)
        ]
        return np.where(self.observed, self.x, np.concatenate(means))

    def histograms(self, z):
        """KL of the draws' histogram from the exact one, and back, each [B].

        On COARSE x COARSE cells, which sum up those of the grid: coarser than the densities,
        and with a bias of about cells / (2 draws) that exact draws show, too. Draws beside the
        grid count for its nearest cell; half a draw is added to every cell for the way back.
        """
        low, high = self.exact.low.numpy(), self.exact.high.numpy()
        place = np.clip((z - low) / (high - low) * COARSE, 0, COARSE - 1).astype(int)
        cells = place[..., 0] * COARSE + place[..., 1]
        counts = np.stack([np.bincount(c, minlength=COARSE**2) for c in cells.T])  # [B, C]
        fine = self.exact.log_mass.numpy().reshape(len(counts), COARSE, -1, COARSE, 5)
        log_mass = scipy.special.logsumexp(fine, (2, 4)).reshape(len(counts), -1)
        share = counts / counts.sum(1, keepdims=True)
        reverse = (scipy.special.xlogy(share, share) - share * log_mass).sum(1)
        mass = np.exp(log_mass)
        smooth = (counts + 0.5) / (counts + 0.5).sum(1, keepdims=True)
        forward = (mass * (log_mass - np.log(smooth))).sum(1)
        return reverse, forward


def ssim(image, original, window=7):
    """Mean structural similarity of images [B, H, W] in [0, 1] (Wang et al., 2004): [B].

    With a square window and its sample covariance, as scikit-image's default.
    """

    def mean(values):
        return scipy.ndimage.uniform_filter(values, (0, window, window))

    a, b = image.astype(np.float64), original.astype(np.float64)
    more = window**2 / (window**2 - 1)
    at, bt = mean(a), mean(b)
    va, vb = more * (mean(a * a) - at**2), more * (mean(b * b) - bt**2)
    vab = more * (mean(a * b) - at * bt)
    c1, c2 = 0.01**2, 0.03**2
    each = (2 * at * bt + c1) * (2 * vab + c2) / ((at**2 + bt**2 + c1) * (va + vb + c2))
    edge = window // 2
    return each[:, edge:-edge, edge:-edge].mean((1, 2))


def rbf_mmd(z, truth):
    """Squared maximum mean discrepancy, unbiased (may be below 0): Gretton et al., 2012.

    A Gaussian kernel as wide as the median distance among the true draws.

    Args:
      z, truth: draws [N, 2], [M, 2].
    """

    def squares(a, b):
        return ((a[:, None] - b) ** 2).sum(-1)

    own = squares(truth, truth)
    width = np.median(own[np.triu_indices(len(own), 1)])

    def within(distance):
        kernel = np.exp(-distance / (2 * width))
        count = len(kernel)
        return (kernel.sum() - count) / (count * (count - 1))

    across = np.exp(-squares(z, truth) / (2 * width)).mean()
    return float(within(squares(z, z)) + within(own) - 2 * across)
