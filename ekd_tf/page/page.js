const page = JSON.parse(document.getElementById("data").textContent);
const main = document.querySelector("main");
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9",
                "#000000", "#e69f00", "#999999", "#882255", "#999933"];
const MODELS = ["teacher", "student", "baseline"];
const KINDS = ["one identity", "two identities"];
const MISSING = "n/a";

// Texts of users become text nodes: nothing in them is read as HTML.
function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child !== null));
  return node;
}
const known = value => value !== null && value !== undefined;
const rate = value => known(value) ? value.toFixed(4) : MISSING;
const small = value => !known(value) ? MISSING : value === 0 ? "0"
  : value < 1e-3 ? value.toExponential(2) : value.toPrecision(3);
const count = value => value.toLocaleString("en");
const range = (ends, write = rate) => ends ? ` [${write(ends[0])}, ${write(ends[1])}]` : "";
const note = text => h("p", {class: "note"}, text);

// A cell is text, or [what it is sorted by, text or node, class].
function table(label, header, rows, sortable = false) {
  const parts = cell => Array.isArray(cell) ? cell : [cell, cell];
  const body = h("tbody", {}, rows.map(row => h("tr", {}, row.map((cell, k) => {
    const [value, shown, kind] = parts(cell);
    const node = h(k ? "td" : "th", {scope: k ? false : "row", class: kind || false}, shown);
    node.sortedBy = value;
    return node;
  }))));
  const heads = header.map((title, k) => h("th", {scope: "col"},
    sortable ? h("button", {type: "button", onclick: () => sort(k)}, title) : title));
  function sort(k) {
    const falling = heads[k].getAttribute("aria-sort") !== "descending";
    heads.forEach(head => head.removeAttribute("aria-sort"));
    heads[k].setAttribute("aria-sort", falling ? "descending" : "ascending");
    const of = row => row.children[k].sortedBy;
    const compare = (a, b) => typeof a === "number" && typeof b === "number"
      ? a - b : String(a).localeCompare(String(b), "en", {numeric: true});
    [...body.children].sort((a, b) => (falling ? -1 : 1) * compare(of(a), of(b)))
      .forEach(row => body.append(row));
  }
  return h("div", {class: sortable ? "table long" : "table", tabindex: 0, role: "region", "aria-label": label},
    h("table", {}, h("thead", {}, h("tr", {}, heads)), body));
}

const charts = [];
// Drawn once it is in the document, whose width it takes.
function chart(description, spec, data = {}) {
  const place = h("div");
  const figure = h("figure", {}, h("div", {class: "chart", role: "img", "aria-label": description}, place),
    h("figcaption", {}, description));
  figure.draw = async () => {
    const {view} = await vegaEmbed(place, {
      width: "container", height: 280, autosize: {type: "fit", contains: "padding"},
      datasets: data, ...spec,
      config: {axis: {labelFontSize: 12, titleFontSize: 12}, legend: {labelFontSize: 12, labelLimit: 300}},
    }, {renderer: "svg", actions: false});
    figure.view = view;
  };
  figure.set = (name, rows) => {
    data[name] = rows;
    figure.view?.data(name, rows).runAsync();
  };
  charts.push(figure);
  return figure;
}
const quantitative = (field, title, scale = {}, more = {}) =>
  ({field, type: "quantitative", title, scale, ...more});
function colored(names, field = "model", title = null) {
  const scale = {domain: names, range: names.map((_, k) => COLORS[k % COLORS.length])};
  return {field, type: "nominal", title, scale, legend: {orient: "bottom", columns: innerWidth < 600 ? 2 : 3}};
}

function rocSpec(curves, intervals, models, axis = {}) {
  const points = models.flatMap(model => curves[model][0].map(
    (fpr, k) => ({model, fpr, tpr: curves[model][1][k]})));
  const fprs = points.map(point => point.fpr), tprs = points.map(point => point.tpr);
  const lowest = Math.min(0.1, ...fprs);
  const bottom = Math.floor(10 * Math.min(...tprs)) / 10;
  const x = quantitative("fpr", "FPR", {type: "log", domain: [lowest, 1], clamp: true}, {axis: {
    values: [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, .1, 1].filter(fpr => fpr >= lowest),
    labelExpr: "datum.value == 1 ? '1' : format(datum.value, '.0e')"}});
  const y = quantitative("tpr", "TPR", {domain: [bottom, 1], clamp: true}, {axis});
  const color = colored(models);
  Object.assign(color.legend, {symbolType: "stroke", symbolSize: 500});
  const strokeDash = {...color, scale: {domain: models, range: [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2]]}};
  const line = {color: "#1a1a1a", strokeWidth: 2};
  // Of many models the legend takes several lines.
  return {height: 250 + 12 * models.length, layer: [
    {data: {values: points}, mark: {type: "line", interpolate: "step-after", tooltip: true},
     encoding: {x, y, color, strokeDash}},
    {data: {values: intervals}, mark: {type: "rule", strokeWidth: 3, opacity: .6},
     encoding: {x, y: {...y, field: "low"}, y2: {field: "high"}, color}},
    {data: {values: intervals}, mark: {type: "point", filled: true, size: 45, tooltip: true},
     encoding: {x, y, color}},
    {data: {name: "at"}, mark: {type: "rule", ...line}, encoding: {x}},
    {data: {name: "at"}, mark: {type: "point", size: 90, ...line}, encoding: {x, y}},
  ]};
}

function figures(models) {
  const names = MODELS.filter(name => name in models);
  const fprs = Object.keys(models[names[0]].figures.tpr);
  return table("Figures", ["model", "accuracy", "AUC", "EER", ...fprs.map(fpr => `TPR at FPR ${fpr}`)],
    names.map(name => {
      const f = models[name].figures, ends = f.intervals;
      return [name, `${rate(f.accuracy_mean)} ± ${rate(f.accuracy_std)}`,
              f.auc.toFixed(6) + range(ends.auc), rate(f.eer) + range(ends.eer),
              ...fprs.map(fpr => rate(f.tpr[fpr]) + range(ends[`tpr_at_fpr_${fpr}`]))];
    }));
}

// A run's report may be of a version that had fewer of them.
const remarks = models => [models.student.figures.not_measurable, models.student.figures.without_interval,
  ...MODELS.filter(name => name in models).map(name => (models[name].figures.collapsed ?? []).map(text => `${name}: ${text}`)),
].flatMap(text => text ?? []).map(text => h("p", {}, text));

function picture(set, row) {
  const source = set.pictures[row];
  return source ? h("img", {src: source, alt: set.names[row], title: set.names[row]}) : null;
}

// Where both begin: the lowest FPR at which slices can be told apart, or the highest; -1 for none.
function firstStop(set) {
  const fprs = Object.keys(set.slider.stops).map(Number);
  const enough = fprs.filter(fpr => fpr * set.models.student.figures.num_negative >= 1000);
  return fprs.indexOf(enough.length ? Math.min(...enough) : Math.max(...fprs));
}

function slider(set) {
  const s = set.slider, models = MODELS.filter(name => name in set.models);
  const figures = set.models.student.figures, total = [figures.num_positive, figures.num_negative];
  const curves = Object.fromEntries(models.map(name => [name, set.models[name].curve]));
  const intervals = models.flatMap(model => {
    const f = set.models[model].figures;
    return Object.entries(f.tpr).filter(([_, tpr]) => known(tpr)).map(([fpr, tpr]) => {
      const [low, high] = f.intervals[`tpr_at_fpr_${fpr}`] || [tpr, tpr];
      return {model, fpr: Number(fpr), tpr, low, high};
    });
  });
  const roc = chart(`ROC of ${models.join(", ")}: TPR over FPR on a logarithmic axis; bars are ` +
    "95 % intervals of the TPR at a target FPR, the upright line is the threshold above.",
    rocSpec(curves, intervals, models));
  const edges = s.thresholds.map((t, k) => [t, k]).filter(([t, k]) =>
    Number.isInteger(t * 64) || k === 0 || k === s.thresholds.length - 1);
  const bars = KINDS.flatMap((kind, i) => edges.slice(1).map(([high, k], j) => {
    const above = i ? s.negatives : s.positives;
    return {kind, low: edges[j][0], high, fraction: (above[edges[j][1]] - above[k]) / total[i]};
  }));
  const histogram = chart(`Cosines of the student's pairs, positive (one identity) and negative ` +
    "(two identities), as fractions of each kind per 1/64, on a square-root axis; the line is the threshold.",
    {layer: [
      {data: {values: bars}, mark: {type: "bar", opacity: .6, binSpacing: 0, tooltip: true}, encoding: {
        x: quantitative("low", "cosine", {zero: false}, {axis: {tickCount: 6, format: ".2~f"}}), x2: {field: "high"},
        y: quantitative("fraction", "fraction of pairs", {type: "sqrt"}, {stack: null, axis: {tickCount: 5}}), y2: {datum: 0},
        color: colored(KINDS, "kind")}},
      {data: {name: "at"}, mark: {type: "rule", color: "#1a1a1a", strokeWidth: 2},
       encoding: {x: quantitative("threshold", "cosine")}},
    ]});
  const stops = Object.entries(s.stops);
  const start = stops.length ? stops[firstStop(set)][1] : figures.threshold;
  const input = h("input", {type: "range", min: 0, max: s.thresholds.length - 1, step: 1,
    "aria-label": `Threshold of the student on ${set.name}`, oninput: () => show()});
  const place = t => s.thresholds.reduce((best, value, k) =>
    Math.abs(value - t) < Math.abs(s.thresholds[best] - t) ? k : best, 0);
  const buttons = stops.map(([fpr, t]) => h("button", {type: "button", onclick: () => {
    input.value = place(t); show();
  }}, `FPR ${fpr}`));
  const head = h("output", {}), live = h("div", {"aria-live": "polite"}), near = h("div");
  function show() {
    const k = Number(input.value), t = s.thresholds[k];
    const above = [s.positives[k], s.negatives[k]], rates = above.map((n, i) => n / total[i]);
    const at = stops.find(([_, value]) => value === t);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", stops[i] === at));
    head.textContent = `Threshold ${t.toFixed(4)}: TPR ${rate(rates[0])}, FPR ${small(rates[1])}`;
    input.setAttribute("aria-valuetext", head.textContent);
    const row = (name, i, write, ends) => [name, h("output", {"data-figure": `above${i}`}, count(above[i])),
      h("output", {"data-figure": `below${i}`}, count(total[i] - above[i])),
      h("output", {"data-figure": `rate${i}`}, write(rates[i])), ends ? range(ends, write).trim() : "fewer than 10 pairs"]
      .map(cell => [0, cell]);
    const others = models.filter(name => name !== "student").map(name => {
      if (at) return `${name} at FPR ${at[0]}: TPR ${rate(set.models[name].figures.tpr[at[0]])}`;
      const [fprs, tprs] = curves[name], last = fprs.filter(fpr => fpr <= rates[1]).length - 1;
      return last < 0 ? null : `${name} at FPR ${small(fprs[last])}: TPR ${rate(tprs[last])}`;
    });
    const exact = at && figures.intervals[`tpr_at_fpr_${at[0]}`];
    live.replaceChildren(table("Counts at the threshold", ["pairs of", "accepted", "rejected", "rate", "95 % interval"], [
      row("one identity (TPR)", 0, rate, s.tpr_intervals[k]), row("two identities (FPR)", 1, small, s.fpr_intervals[k])]),
      note([...others, exact ? `student, TPR at FPR ${at[0]} with its threshold resampled too: ${rate(figures.tpr[at[0]])}${range(exact)}` : ""]
        .filter(Boolean).join("; ")));
    roc.set("at", [{fpr: Math.max(rates[1], 1e-12), tpr: rates[0]}]);
    histogram.set("at", [{threshold: t}]);
    near.replaceChildren(...KINDS.flatMap((name, kind) => {
      const pairs = set.pairs.filter(pair => pair[0] === kind)
        .sort((a, b) => Math.abs(a[1] - t) - Math.abs(b[1] - t)).slice(0, 4);
      return pairs.length ? [h("h4", {}, `Nearest pairs of ${name}`), h("div", {class: "pairs"}, pairs.map(
        ([_, cosine, left, right]) => h("figure", {}, picture(set, left), picture(set, right),
          h("figcaption", {}, `cosine ${cosine.toFixed(4)}, ${cosine > t ? "accepted" : "rejected"}`))))] : [];
    }));
  }
  input.value = place(start);
  show();
  return [h("h3", {}, "Threshold"), h("div", {class: "slider"}, head, input, buttons),
    h("div", {class: "charts"}, roc, histogram), live, near,
    note(`The line moves in steps of 1/${Math.round(1 / s.step)} of cosine and stops at the thresholds of the target FPRs; ` +
      "counts there are exact. Intervals at a threshold are Wilson's with the variance between " +
      (set.identities ? "identities" : "pairs") + ". Pictures are of one pair of a kind per step.")];
}

function critical(set) {
  const c = set.critical;
  if (!c || !c.rows.length) return [];
  const rows = [...c.rows].sort((a, b) => b.off - a.off).map(row => [
    [row.pair[0], h("span", {class: "pair"}, picture(set, row.pair[0]), picture(set, row.pair[1]),
      set.pictures[row.pair[0]] ? "" : row.pair.map(k => set.names[k]).join(" and "))],
    [row.off, rate(row.off)], KINDS[row.kind === "positive" ? 0 : 1], row.right,
    ...row.cosines.map(value => [value, rate(value)])]);
  const counts = Object.entries(c.counts).map(([right, of]) =>
    `Only the ${right} is right: ${count(of.positive)} of one identity, ${count(of.negative)} of two.`);
  return [h("h3", {}, `Critical pairs at FPR ${c.fpr}`),
    h("p", {}, `${counts.join(" ")} Thresholds: teacher ${rate(c.thresholds.teacher)}, student ${rate(c.thresholds.student)}. ` +
      "Of each kind those on which the models differ most, in cosine above their own thresholds."),
    table("Critical pairs", ["pair", "how far off", "pair of", "right", "cosine of the teacher", "of the student"], rows, true)];
}

function slices(set) {
  const stops = Object.keys(set.slider.stops), f = set.models.student.figures;
  if (!stops.length) return [];
  const place = h("div");
  const select = h("select", {"aria-label": `Common threshold on ${set.name}`, onchange: () => show()},
    stops.map((fpr, k) => h("option", {value: k}, `FPR ${fpr} (cosine ${rate(set.slider.stops[fpr])})`)));
  function show() {
    const k = Number(select.value), at = set.slider.thresholds.indexOf(set.slider.stops[stops[k]]);
    const whole = set.slider.negatives[at] / f.num_negative;
    const row = of => {
      const accepted = known(of.fpr[k]) ? of.fpr[k] * of.pairs[1] : 0, times = of.fpr[k] / whole;
      const ends = [of.tpr_intervals?.[k], of.fpr_intervals?.[k]];
      return [of.name, [of.tpr[k] ?? -1, rate(of.tpr[k]) + range(ends[0])], [of.fpr[k] ?? -1, small(of.fpr[k]) + range(ends[1], small)],
        accepted < 9.5 ? [-1, "few"] : [times, times.toFixed(1), times >= 2 ? "high" : ""],
        ...of.pairs.map(n => [n, count(n)])];
    };
    const all = {name: "all", pairs: [f.num_positive, f.num_negative],
      tpr: {[k]: f.tpr[stops[k]]}, fpr: {[k]: whole},
      tpr_intervals: {[k]: set.slider.tpr_intervals[at]}, fpr_intervals: {[k]: set.slider.fpr_intervals[at]}};
    const header = name => [name, "TPR", "FPR", "FPR / FPR of all", "positive pairs", "negative pairs"];
    const people = set.identities;
    place.replaceChildren(h("div", {class: "slices"}, set.slices.map(slice =>
      table(slice.name, header(slice.name), [all, ...slice.rows].map(row)))),
      ...(people && people.rows.length ? [h("h3", {}, "Identities"),
        note(`${people.rows.length} of ${count(people.of)}, among them at each threshold the ${people.each} with the lowest TPR and ` +
          "the highest FPR; a negative pair counts at both of its identities."),
        table("Identities", header("identity"), [...people.rows].sort((a, b) => (a.tpr[k] ?? 2) - (b.tpr[k] ?? 2)).map(row), true)] : []));
  }
  select.value = firstStop(set);
  show();
  return [h("h3", {}, "Slices"), h("p", {}, "At one threshold for all: ", select),
    note("A pair is of a slice where both its images are. In brackets 95 % intervals at this threshold; none, and “few”, " +
      "where fewer than ten pairs are accepted or rejected."), place];
}

function calibrated(set) {
  const c = set.calibration;
  if (!c) return [];
  const [tpr, fpr] = c.above.map((n, i) => n / c.pairs[i]);
  return [h("h3", {}, "The shipped threshold here"), h("p", {},
    `${rate(c.entry.threshold)}${range(c.entry.interval)}, calibrated for FPR ${small(c.entry.fpr)} on ${c.entry.source} ` +
    `(embeddings of ${c.entry.view}). On ${set.name} it accepts ${count(c.above[1])} of ${count(c.pairs[1])} negative pairs, ` +
    `FPR ${small(fpr)}, and has TPR ${rate(tpr)}.`)];
}

function section(set) {
  const parts = set.slider ? [figures(set.models), note(`Embeddings of ${set.view}; in brackets bootstrap 95 % intervals.`),
    ...remarks(set.models),
    ...slider(set), ...critical(set), ...slices(set), ...calibrated(set)] : [];
  return [h("h2", {id: `set-${set.name}`}, set.name), ...parts,
    h("details", set.slider ? {} : {open: ""}, h("summary", {}, "The text report"), h("pre", {tabindex: 0}, set.text))];
}

function deployment(d) {
  const files = Object.entries(d.calibrations);
  if (!files.length && !d.exports.length) return [];
  const ms = value => known(value) ? value.toFixed(2) : MISSING;
  return [h("h2", {id: "deployment"}, "Beside the model"),
    files.length ? table("Thresholds", ["file", "threshold", "FPR", "TPR", "negative pairs", "images", "embeddings of"],
      files.map(([file, c]) => [file, rate(c.threshold) + range(c.interval), small(c.fpr), rate(c.tpr), count(c.pairs), c.source, c.view])) : null,
    ...d.exports.flatMap(e => [h("h3", {}, `Export ${e.name}`), table(e.name,
      ["artefact", "MB", "least cosine with Keras", "mean", "TPR at FPR 1e-3", "ms, median", "ms, p95"],
      e.artefacts.map(a => [a.kind, (a.size_bytes / 1e6).toFixed(2), a.parity.min_cosine.toFixed(6), a.parity.mean_cosine.toFixed(6),
        rate(a.verification?.tpr), ms(a.median_ms), ms(a.p95_ms)]))])].filter(Boolean);
}

const percent = s => s ? (100 * s.mean).toFixed(1) + (s.low === s.high ? "" : ` (${(100 * s.low).toFixed(1)}..${(100 * s.high).toFixed(1)})`) : MISSING;
const value = s => s ? s.mean : -1;
// Of fractions on axes and in tooltips.
const PERCENT = ".2~%";

function compared(name, methods, remarks) {
  const names = Object.keys(methods), fprs = Object.keys(methods[names[0]].tpr);
  const drawn = names.filter(method => methods[method].curve.length);
  const isOne = names.every(method => methods[method].seeds.length < 2);
  const column = (what, method) => fprs.map(fpr => [value(methods[method][what][fpr]), percent(methods[method][what][fpr])]);
  const bars = fprs.map(fpr => {
    // The teacher's would squeeze all others together.
    const found = names.filter(method => methods[method].tpr[fpr] && (method !== "teacher" || names.length === 1));
    const values = found.flatMap(method => methods[method].tpr[fpr].values.map(tpr => ({method, tpr})));
    const y = {field: "method", type: "nominal", sort: names, title: null};
    const x = aggregate => quantitative("tpr", "TPR", {zero: false, padding: 8}, {aggregate, axis: {tickCount: 5, format: PERCENT}});
    const spread = isOne ? [] : [
      {mark: {type: "rule", strokeWidth: 3, color: COLORS[0], opacity: .5}, encoding: {y, x: x("min"), x2: {field: "tpr", aggregate: "max"}}},
      {mark: {type: "tick", thickness: 3, color: COLORS[1]}, encoding: {y, x: x("mean")}}];
    const teacher = methods.teacher ? ` Teacher: ${percent(methods.teacher.tpr[fpr])} %.` : "";
    return chart(`TPR at FPR ${fpr}${isOne ? "" : ": bar from the lowest to the highest seed, tick the mean, circles the seeds"}.${teacher}`,
      {height: 60 + 24 * found.length, data: {values}, layer: [...spread,
        {mark: {type: "point", color: "#1a1a1a", tooltip: true}, encoding: {y, x: x()}}]});
  });
  const others = names.filter(method => method !== "teacher" && fprs.some(fpr => methods[method].closed[fpr]));
  return [h("h2", {id: `set-${name}`}, name), note(isOne ? "In %, of one seed." : "In %: the mean of the seeds, in brackets the lowest and the highest."),
    ...remarks.map(text => h("p", {}, text)),
    table(`TPR on ${name}`, ["method", "seeds", "accuracy", ...fprs.map(fpr => `TPR at FPR ${fpr}`)], names.map(method =>
      [method, methods[method].seeds.length, [value(methods[method].accuracy), percent(methods[method].accuracy)], ...column("tpr", method)]), true),
    others.length ? h("h3", {}, "Share of the gap closed") : null,
    others.length ? table("Share of the gap closed", ["method", ...fprs.map(fpr => `at FPR ${fpr}`)], others.map(method => [method, ...column("closed", method)]), true) : null,
    h("div", {class: "charts"}, drawn.length ? chart(`${isOne ? "" : "Mean "}ROC of ${drawn.join(", ")}.`,
      rocSpec(Object.fromEntries(drawn.map(method => [method, methods[method].curve])), [], drawn, {format: PERCENT})) : null, bars)].filter(Boolean);
}

function comparison(report) {
  const number = (n, digits = 0) => [n ?? -1, known(n) ? n.toFixed(digits) : MISSING];
  return [...Object.entries(report.sets).flatMap(([name, methods]) => compared(name, methods, report.not_measurable[name])),
    h("h2", {id: "runs"}, "Cost"), table("Runs", ["method", "seed", "state", "ms a step", "images/s", "wall time, s", "note"],
      report.runs.map(run => [run.method, run.seed, run.state, number(run.ms_per_step, 1), number(run.images_per_second), number(run.seconds), run.note]), true)];
}

function curves(list) {
  return list.flatMap(({title, unit, lines}) => {
    const split = name => name.includes("/fpr_") ? name.split("/fpr_") : ["", name];
    const colors = [...new Set(lines.map(line => split(line.name)[1]))];
    const dashes = [...new Set(lines.map(line => split(line.name)[0]))];
    const points = lines.flatMap(line => line.points.map(([step, value]) =>
      ({line: line.name, model: split(line.name)[1], of: split(line.name)[0], step, value})));
    const positive = unit === "loss" && lines.length > 1 && points.every(point => point.value > 0);
    const scale = unit === "pairs" ? {type: "symlog"} : positive ? {type: "log"}
      : {zero: points.every(point => point.value === points[0].value)};
    const dash = {field: "of", type: "nominal", title: null, scale: {domain: dashes}, legend: dashes.length > 1 ? {orient: "bottom", symbolType: "stroke", symbolSize: 500} : null};
    const thinned = Math.max(...lines.map(line => line.every));
    const first = line => line.points[0][1], last = line => line.points.at(-1)[1];
    return [h("div", {}, h("h3", {}, title), chart(`${title}, ${unit} over steps` + (thinned > 1 ? `; every ${thinned}th point is drawn.` : "."),
      {data: {values: points}, mark: {type: "line", tooltip: true, point: points.length < 50}, encoding: {x: quantitative("step", "step"),
        y: quantitative("value", unit, scale, {axis: {tickCount: 6}}), color: colored(colors, "model", dashes.some(Boolean) ? "FPR" : null), strokeDash: dash, detail: {field: "line"}}}),
      h("details", {}, h("summary", {}, "First and last values"), table(title, ["name", "first", "last"],
        lines.map(line => [line.name, small(first(line)), small(last(line))]))))];
  });
}

main.replaceChildren(h("h1", {}, page.title), h("details", {id: "facts"}, h("summary", {}, "How this was made"),
  h("dl", {}, Object.entries(page.facts).flatMap(([name, fact]) => [h("dt", {}, name), h("dd", {}, typeof fact === "string" ? fact : JSON.stringify(fact))]))));
if (page.curves?.length) main.append(h("h2", {id: "training"}, "Training"), h("div", {class: "charts"}, curves(page.curves)));
for (const [name, models] of Object.entries(page.reports ?? {})) main.append(h("h2", {id: `set-${name}`}, `${name}, last evaluation`), figures(models), ...remarks(models));
for (const set of page.sets ?? []) main.append(...section(set));
if (page.comparison) main.append(...comparison(page.comparison));
if (page.deployment) main.append(...deployment(page.deployment));
const titles = [...main.querySelectorAll("h2")];
if (titles.length > 1) main.querySelector("#facts").after(h("nav", {"aria-label": "Sections"},
  titles.map(title => h("a", {href: `#${encodeURIComponent(title.id)}`}, title.textContent))));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(node => { node.open = true; }));
Promise.all(charts.map(figure => figure.draw()))
  .then(() => document.body.setAttribute("data-drawn", ""));
