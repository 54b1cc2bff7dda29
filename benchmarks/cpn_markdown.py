"""The text of benchmarks/cpn_figures.py."""

import textwrap

PAPER_SECONDS = {"GVI": 0.36, "Planar flow": 2.79, "FCN": 5.26, "HMC": 34.92}
SEEN = {  # what was looked into
    "mnist 0.05": """What the averages of log p(x_u | x_o) differ by is almost all of two
    questions (numbers 8 and 25): three quarters of p(x_u | x_o) come from a place four units
    of z from the posterior's mean, around which (.3) lie 0.06 % and 0.002 % of its mass. No
    fitted q reaches it: some 50 nats are lost in each, and a divergence of 0.01 does not
    tell.""",
}
WANTED = {"Mixture of 10": 0.05, "IAF": 0.10}  # KL(q || exact), nats
ROWS = (
    *("Exact", "Gaussian", "GVI", "Planar flow", "IAF", "Mixture of 10", "FCN"),
    *("Mixture of 10, amortised start", "Posterior Matching", "HMC"),
)
COLUMNS = {  # heading: (key of a result, format)
    "C-ELBO": ("bound", "{:.2f}"),
    "KL(q, exact)": ("KL(q || exact)", "{:.3f}"),
    "stderr": ("stderr", "{:.3f}"),
    "worst": ("worst", "{:.2f}"),
    "KL(exact, q)": ("KL(exact || q)", "{:.3f}"),
    "KL(hist., exact)": ("KL(histogram || exact)", "{:.3f}"),
    "KL(exact, hist.)": ("KL(exact || histogram)", "{:.3f}"),
    "log p(x_u, x_o)": ("log p(x_u | x_o)", "{:.2f}"),
    "SSIM": ("SSIM", "{:.3f}"),
    "diversity": ("diversity", "{:.3f}"),
    "CPU s": ("CPU s", "{:.1f}"),
    "compile": ("compile CPU s", "{:.1f}"),
    "steps": ("steps", "{:.0f}"),
}


def table(rows, first, columns):
    """Markdown rows of {label: facts}."""
    lines = ["| " + " | ".join([first, *columns]) + " |", "|---" * (1 + len(columns)) + "|"]
    for label, facts in rows.items():
        cells = [
            form.format(facts[key]) if key in facts else "-" for key, form in columns.values()
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def wrap(*sentences):
    """A paragraph."""
    return [*textwrap.wrap(" ".join(" ".join(sentences).split()), 95), ""]


def text(found) -> str:
    """The results as Markdown."""
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    lines = ["# Conditional prior networks' figures", ""]
    lines += wrap(
        "`python benchmarks/cpn_figures.py queries optimisers acceptance gibbs toy draw`,",
        f"{found['hardware']}, one thread; {versions}. Seconds are CPU time.",
    )
    lines += wrap(
        "A VAE with two latents and one hidden layer of 64 (decoder and encoder, as the",
        "paper's text has it), Bernoulli pixels, trained on 55,000",
        "images binarised at one half",
        "inside Posterior Matching, 6,000 steps of batch 128. The paper took a VAE trained by",
        "others. Questions: the first 50 test images, each with single pixels observed, each",
        "independently with the share in the heading and a pattern of its own (the paper does",
        "not give its share for Figure 5; its code: 5, 15, 25 %).",
        "The paper shows Figures 4, 5",
        "and 10 to 12 as pictures alone: there are no figures of it to set beside ours but",
        "Table 1's times.",
    )
    for cell, rows in found.get("queries", {}).items():
        lines += question_table(found, cell, rows)
    lines += optimisers(found) + acceptance(found) + gibbs(found) + toy(found)
    return "\n".join(lines)


def question_table(found, cell, rows):
    """Figure 5 as numbers, for one data set and share."""
    name, share = cell.split()
    exact = found["exact"][cell]
    lines = [f"## {name}, {float(share):.0%} of the pixels observed", ""]
    lines += wrap(
        f"Averages over {len(exact['each']['log p(x_u | x_o)'])} questions, nats. Exactly:",
        f"log p(x_o) = {exact['log p(x_o)']:.2f}, log p(x_u | x_o) =",
        f"{exact['log p(x_u | x_o)']:.2f}.",
    )
    for method, most in WANTED.items():
        if method in rows:
            got = rows[method]["KL(q || exact)"]
            word = "reached" if got <= most else "MISSED"
            lines += wrap(
                f"Wanted of {method}: KL(q, exact) at most {most:.2f}; {word}: {got:.3f}."
            )
    if absent := [method for method in ROWS if method not in rows]:
        lines += wrap(f"Not run here: {', '.join(absent)}.")
    short = {k: v for k, v in COLUMNS.items() if k not in ("compile", "steps")}
    lines += table(rows, "method", short)
    lines += ["CPU seconds for all questions together; compilation apart:", ""]
    times = {k: COLUMNS[k] for k in ("CPU s", "compile", "steps")}
    some = {k: {**v, "paper": PAPER_SECONDS.get(k)} for k, v in rows.items() if "CPU s" in v}
    for facts in some.values():
        if facts["paper"] is None:
            facts.pop("paper")
    times["paper, one question"] = ("paper", "{:.2f} s")
    lines += table(some, "method", times)
    hmc = rows.get("HMC", {})
    if "acceptance" in hmc:
        lines += wrap(
            "HMC: 20 chains, 100 steps of burn-in, 200 draws each, step size adapted;",
            f"acceptance {hmc['acceptance']:.2f}; R-hat: median {hmc['R-hat, median']:.3f},",
            f"largest {hmc['largest']:.2f}.",
        )
    if "not a bound" in rows.get("FCN", {}):
        lines += wrap(
            f"FCN's objective averages {rows['FCN']['not a bound']:.2f}, above log p(x_o):",
            "its map folds, and what it maximises is no bound.",
        )
    if cell in SEEN:
        lines += wrap(SEEN[cell])
    lines += wrap(
        "`KL(q, exact)` is log p(x_o) of the grid less the C-ELBO, 2,000 draws of q;",
        "`KL(exact, q)` a sum over the grid's 100 x 100 cells. HMC and FCN have draws alone:",
        "`hist.` columns compare a histogram of draws, 20 x 20 cells",
        "over the posterior's box,",
        "with the grid's masses in these cells; the row `Exact` (2,000 draws of the grid",
        "posterior itself) shows that estimate's bias; HMC's 4,000 draws have half of it.",
        "`log p(x_u, x_o)` is the paper's query",
        "marginal likelihood, log mean p(x_u | z) over 500 draws, of all hidden pixels. SSIM",
        "(square window of 7, completed images against the original) and diversity (standard",
        "deviation of a pixel, mean over pixels) are of 100 decoder",
        "means with the evidence in",
        "its place.",
    )
    return lines


def optimisers(found):
    """Section 4.6."""
    parts = found.get("optimisers", {})
    if not parts:
        return []
    lines = ["## Optimisers (section 4.6)", ""]
    lines += wrap(
        "25 of the MNIST questions with 5 % observed, fixed noise of",
        "100 draws, started at the",
        "prior; 300 steps, but L-BFGS (100 iterations at most, each of several evaluations).",
        "The bound on fresh noise, 2,000 draws.",
    )
    columns = {
        "C-ELBO": ("bound", "{:.2f}"),
        "KL(q, exact)": ("KL(q || exact)", "{:.3f}"),
        "median": ("median", "{:.3f}"),
        "worst": ("worst", "{:.2f}"),
        "CPU s": ("CPU s", "{:.1f}"),
        "compile": ("compile CPU s", "{:.1f}"),
        "steps": ("steps", "{:.0f}"),
    }
    for family, rows in parts.items():
        lines += [f"### {family}", "", *table(rows, "rule, learning rate", columns)]
    if "L-BFGS" in parts.get("GVI", {}):
        lines += wrap(
            "L-BFGS is fastest, as in the paper, but not the best on fresh noise: it fits",
            "its 100 draws to the end; the others keep what is best on draws of their own.",
        )
    return lines


def acceptance(found):
    """Figure 12."""
    parts = found.get("acceptance", {})
    if not parts:
        return []
    lines = ["## HMC's acceptance by step size (Figure 12)", ""]
    lines += wrap(
        "One MNIST question, 15 % observed; 30 chains, 50 steps of burn-in and 100 draws",
        "(the paper: 10,000 steps, Anime and CelebA with 64 and 100",
        "latents). Mean acceptance,",
        "in brackets the least and the most of a chain; R-hat.",
    )
    sizes = list(next(iter(parts.values())))
    lines += ["| leapfrogs | " + " | ".join(sizes) + " |", "|---" * (1 + len(sizes)) + "|"]
    for leapfrogs, row in parts.items():
        cells = []
        for f in row.values():
            r_hat = f"{f['R-hat']:.2f}" if f["R-hat"] < 10.0 else "above 10"
            cells.append(f"{f['mean']:.2f} ({f['each'][0]:.2f}, {f['each'][-1]:.2f}); {r_hat}")
        lines.append(f"| {leapfrogs} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def gibbs(found):
    """Figure 11."""
    parts = found.get("gibbs", {})
    if not parts:
        return []
    lines = ["## Pseudo-Gibbs by the share observed (Figure 11)", ""]
    lines += wrap(
        "The first 30 MNIST questions; 10 chains of 20 steps of burn-in",
        "(Metropolis-within-Gibbs: 20",
        "of pseudo-Gibbs and 200) and 100 draws. `MSE`: of hidden pixels, decoder's mean over",
        "draws, as the paper's Figure 11b; `E z`: error of the mean of z, in standard",
        "deviations of the exact posterior; `spread`: standard deviation of z over the exact",
        "one, geometric mean.",
    )
    labels = ("Exact", "Pseudo-Gibbs", "Metropolis-within-Gibbs")
    heads = [f"{what}, {label}" for what in ("MSE", "E z", "spread") for label in labels]
    lines += ["| observed | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for share, row in parts.items():
        cells = [f"{row[k]['MSE']:.4f} (+- {row[k]['its stderr']:.4f})" for k in labels]
        cells += [f"{row[k]['error of E z']:.2f}" for k in labels]
        cells += [f"{row[k]['spread']:.2f}" for k in labels]
        lines.append(f"| {float(share):.0%} | " + " | ".join(cells) + " |")
    lines.append("")
    lines += wrap(
        "As in the paper pseudo-Gibbs is far off while less than 40 % is observed; then its",
        "errors of pixels meet the others', but not those of z: a standard deviation or so.",
    )
    return lines


def toy(found):
    """Figure 10."""
    rows = found.get("toy", {})
    if not rows:
        return []
    lines = ["## A mixture of three Gaussians in the plane (Figure 10)", ""]
    lines += wrap(
        "Weights .4, .35, .25; 1,000 draws of each method, searches with 500 draws a step.",
        "MMD^2 with a Gaussian kernel as wide as the median distance of true draws, unbiased;",
        "`Truth` is a second sample. HMC is one chain, as in the",
        "paper's code. `shares` of the",
        "draws nearest to each component. The paper's MMD is, in its code, the distance of",
        "means.",
    )
    columns = {"MMD^2": ("MMD^2", "{:.5f}"), "KL(q, exact)": ("KL(q || exact)", "{:.3f}")}
    columns |= {"shares": ("shares", "{}"), "CPU s": ("CPU s", "{:.1f}")}
    lines += table(rows, "method", columns)
    if "GVI" in rows:
        lines += wrap(
            "A search that starts at N(0, I) need not find all three: the flows and the chain",
            "miss the component on the left, and GVI ends astride two, where a Gaussian on",
            "one alone would have a divergence of 0.9. The paper's flow finds all three.",
        )
    return lines
