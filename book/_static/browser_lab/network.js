/* The small network of the laboratory, and the search for δ: plain arithmetic, nothing of the page.
 *
 * What PyTorch does in the book is done here by hand, in 64-bit floats: f(x), ∇ₓ of the loss, the
 * balls of ibau_lite.sets and the climb of ibau_lite.minimax.Ascent. tests/book/test_browser_lab.py
 * holds every one of them against the library.
 */
"use strict";

(function () {
  const SIZE = 32;
  const PIXELS = SIZE * SIZE;
  const NUMBERS = 3 * PIXELS; // of one image [3, 32, 32], as PyTorch orders them

  /* ---- reading the file of weights ------------------------------------------------------------ */

  function bytesOf(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  /** 16-bit floats, least byte first, as numbers. */
  function halves(base64) {
    const bytes = bytesOf(base64);
    const numbers = new Float64Array(bytes.length / 2);
    for (let i = 0; i < numbers.length; i++) {
      const bits = bytes[2 * i] | (bytes[2 * i + 1] << 8);
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
      numbers[i] = bits >> 15 ? -size : size;
    }
    return numbers;
  }

  /* ---- the network ---------------------------------------------------------------------------- */

  /** out[co] = bias[co] + Σ kernel[co, ci] ⋆ padded[ci]: 3×3, on images with a border of zeros. */
  function convolve(padded, inputs, size, kernel, bias, out, outputs) {
    const wide = size + 2;
    const area = size * size;
    for (let co = 0; co < outputs; co++) {
      out.fill(bias ? bias[co] : 0, co * area, (co + 1) * area);
      for (let ci = 0; ci < inputs; ci++) {
        const k = 9 * (co * inputs + ci);
        const a = kernel[k], b = kernel[k + 1], c = kernel[k + 2];
        const d = kernel[k + 3], e = kernel[k + 4], f = kernel[k + 5];
        const g = kernel[k + 6], h = kernel[k + 7], i = kernel[k + 8];
        for (let row = 0; row < size; row++) {
          let p = ci * wide * wide + row * wide;
          let q = co * area + row * size;
          for (const end = q + size; q < end; p++, q++) {
            out[q] +=
              a * padded[p] + b * padded[p + 1] + c * padded[p + 2] +
              d * padded[p + wide] + e * padded[p + wide + 1] + f * padded[p + wide + 2] +
              g * padded[p + 2 * wide] + h * padded[p + 2 * wide + 1] + i * padded[p + 2 * wide + 2];
          }
        }
      }
    }
  }

  /** The kernel that carries a gradient back: in- and outputs change places, taps turn round. */
  function turned(kernel, inputs, outputs) {
    const back = new Float64Array(kernel.length);
    for (let co = 0; co < outputs; co++)
      for (let ci = 0; ci < inputs; ci++)
        for (let t = 0; t < 9; t++)
          back[9 * (ci * outputs + co) + t] = kernel[9 * (co * inputs + ci) + 8 - t];
    return back;
  }

  /** ibau_lite.models.small_cnn in evaluation mode, each BatchNorm folded into its convolution. */
  class Network {
    /** `numbers`: for each convolution kernel and bias, then the linear layer's weight and bias. */
    constructor(numbers, width, classes) {
      const channels = [3, width, 2 * width, 4 * width, 4 * width];
      let at = 0;
      const take = (count) => numbers.subarray(at, (at += count));
      this.classes = classes;
      this.layers = [];
      for (let l = 0; l < 4; l++) {
        const [inputs, outputs] = [channels[l], channels[l + 1]];
        const size = SIZE >> l;
        const kernel = take(9 * inputs * outputs);
        this.layers.push({
          inputs, outputs, size, kernel,
          bias: take(outputs),
          back: turned(kernel, inputs, outputs),
          padded: new Float64Array(inputs * (size + 2) ** 2),
          out: new Float64Array(outputs * size * size),
          chosen: new Int32Array(outputs * (size / 2) ** 2),
          paddedSlope: new Float64Array(outputs * (size + 2) ** 2),
          slope: new Float64Array(inputs * size * size),
        });
      }
      this.features = new Float64Array(16 * width);
      this.weight = take(classes * 16 * width);
      this.lastBias = take(classes);
      if (at !== numbers.length) throw new Error(`${numbers.length} numbers, expected ${at}`);
    }

    /** f(x): the logits of one image [3, 32, 32] in [0, 1]. */
    logits(image) {
      let values = image;
      for (const [l, layer] of this.layers.entries()) {
        border(values, layer.inputs, layer.size, layer.padded);
        convolve(layer.padded, layer.inputs, layer.size, layer.kernel, layer.bias, layer.out, layer.outputs);
        if (l < 3) values = layer.pooled = largest(layer, layer.pooled);
      }
      averages(this.layers[3], this.features);
      const logits = new Float64Array(this.classes);
      const n = this.features.length;
      for (let k = 0; k < this.classes; k++) {
        let sum = this.lastBias[k];
        for (let j = 0; j < n; j++) sum += this.weight[k * n + j] * this.features[j];
        logits[k] = sum;
      }
      return logits;
    }

    /** ∇ₓ ⟨slopes, f(x)⟩ for the image of the last call of `logits`: [3, 32, 32]. */
    backward(slopes) {
      const n = this.features.length;
      const last = this.layers[3];
      last.paddedSlope.fill(0);
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let k = 0; k < this.classes; k++) sum += slopes[k] * this.weight[k * n + j];
        const [channel, row, column] = [j >> 2, 2 * ((j >> 1) & 1), 2 * (j & 1)];
        for (const [y, x] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
          const q = 16 * channel + 4 * (row + y) + column + x;
          if (last.out[q] > 0) last.paddedSlope[36 * channel + 6 * (row + y + 1) + column + x + 1] = sum / 4;
        }
      }
      for (let l = 3; ; l--) {
        const layer = this.layers[l];
        convolve(layer.paddedSlope, layer.outputs, layer.size, layer.back, null, layer.slope, layer.inputs);
        if (l === 0) return layer.slope;
        const below = this.layers[l - 1];
        const wide = below.size + 2;
        below.paddedSlope.fill(0);
        for (let i = 0; i < layer.slope.length; i++) {
          const q = below.chosen[i];
          if (q < 0) continue;
          const [channel, cell] = [Math.floor(q / below.size ** 2), q % below.size ** 2];
          const [row, column] = [Math.floor(cell / below.size), cell % below.size];
          below.paddedSlope[channel * wide * wide + (row + 1) * wide + column + 1] = layer.slope[i];
        }
      }
    }
  }

  function border(values, channels, size, padded) {
    const wide = size + 2;
    for (let c = 0; c < channels; c++)
      for (let row = 0; row < size; row++) {
        const from = (c * size + row) * size;
        const to = c * wide * wide + (row + 1) * wide + 1;
        for (let x = 0; x < size; x++) padded[to + x] = values[from + x];
      }
  }

  /** ReLU and 2×2 max-pooling; `layer.chosen` remembers which number won, -1 where none is > 0. */
  function largest(layer, pooled) {
    const { outputs, size, out, chosen } = layer;
    const half = size / 2;
    pooled = pooled || new Float64Array(outputs * half * half);
    for (let c = 0, i = 0; c < outputs; c++)
      for (let row = 0; row < size; row += 2)
        for (let x = 0; x < size; x += 2, i++) {
          const q = (c * size + row) * size + x;
          let best = q;
          for (const other of [q + 1, q + size, q + size + 1]) if (out[other] > out[best]) best = other;
          chosen[i] = out[best] > 0 ? best : -1;
          pooled[i] = Math.max(out[best], 0);
        }
    return pooled;
  }

  /** ReLU and the mean of each quarter of a 4×4 map. */
  function averages(layer, features) {
    const up = (q) => Math.max(layer.out[q], 0);
    for (let j = 0; j < features.length; j++) {
      const q = 16 * (j >> 2) + 8 * ((j >> 1) & 1) + 2 * (j & 1);
      features[j] = (up(q) + up(q + 1) + up(q + 4) + up(q + 5)) / 4;
    }
  }

  function softmax(logits) {
    const top = Math.max(...logits);
    const powers = Array.from(logits, (z) => Math.exp(z - top));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((p) => p / sum);
  }

  /* ---- the objective H(δ, θ) --------------------------------------------------------------------- */

  /** clamp(x + δ, 0, 1): what a camera could see. */
  function worn(image, delta) {
    const seen = new Float64Array(NUMBERS);
    for (let i = 0; i < NUMBERS; i++) seen[i] = Math.min(1, Math.max(0, image[i] + delta[i]));
    return seen;
  }

  /**
   * H(δ) = (1/n) Σ L(f(clamp(xᵢ + δ)), yᵢ) with L the cross-entropy, its gradient in δ, and what is
   * read on each image. `toward`: a class t instead, and −(1/n) Σ L(·, t) is climbed.
   */
  function risk(network, images, labels, delta, toward) {
    const gradient = new Float64Array(NUMBERS);
    const read = [];
    let value = 0;
    for (let n = 0; n < images.length; n++) {
      const image = images[n];
      const logits = network.logits(worn(image, delta));
      const label = toward >= 0 ? toward : labels[n];
      const sign = (toward >= 0 ? -1 : 1) / images.length;
      const top = Math.max(...logits);
      const total = logits.reduce((sum, z) => sum + Math.exp(z - top), 0);
      value += sign * (top + Math.log(total) - logits[label]);
      const slopes = logits.map((z, k) => sign * (Math.exp(z - top) / total - (k === label ? 1 : 0)));
      const back = network.backward(slopes);
      for (let i = 0; i < NUMBERS; i++) {
        const sum = image[i] + delta[i];
        if (sum >= 0 && sum <= 1) gradient[i] += back[i]; // the clamp is flat outside
      }
      read.push(logits.indexOf(top));
    }
    return { value, gradient, read };
  }

  /* ---- the balls ------------------------------------------------------------------------------- */

  const norms = {
    l2: (v) => Math.sqrt(v.reduce((sum, x) => sum + x * x, 0)),
    l1: (v) => v.reduce((sum, x) => sum + Math.abs(x), 0),
  };

  /** g/‖g‖₂: the steepest direction of the l2 ball. */
  function steepestL2(gradient) {
    const length = norms.l2(gradient);
    return length > 0 ? gradient.map((g) => g / length) : gradient;
  }

  /** The sign of g in the 3 % of the entries where |g| is largest, of l1 norm 1. */
  function steepestL1(gradient) {
    const sizes = gradient.map(Math.abs).sort();
    const least = sizes[sizes.length - Math.max(1, Math.floor(0.03 * sizes.length))];
    const signs = gradient.map((g) => (Math.abs(g) >= least ? Math.sign(g) : 0));
    const length = Math.max(1, norms.l1(signs));
    return signs.map((s) => s / length);
  }

  function projectL2(delta, radius) {
    const length = norms.l2(delta);
    return length > radius ? delta.map((d) => (d * radius) / length) : delta;
  }

  /** The nearest point of the l1 ball: every entry shrinks by the same amount, to zero at most. */
  function projectL1(delta, radius) {
    if (norms.l1(delta) <= radius) return delta;
    const sizes = delta.map(Math.abs).sort().reverse();
    let sum = 0;
    let shrink = 0;
    for (let i = 0; i < sizes.length; i++) {
      sum += sizes[i];
      const now = (sum - radius) / (i + 1);
      if (sizes[i] <= now) break;
      shrink = now;
    }
    return delta.map((d) => Math.sign(d) * Math.max(Math.abs(d) - shrink, 0));
  }

  const balls = {
    l2: { steepest: steepestL2, project: projectL2, norm: norms.l2 },
    l1: { steepest: steepestL1, project: projectL1, norm: norms.l1 },
  };

  /**
   * Projected steepest ascent, one step a call of `next()`: δ ← Π(δ + s·u), s = C/2·(1 − t/T).
   * Yields { step, delta, value, read, best } at the T + 1 points; `best` is the highest so far.
   */
  function* climb(network, images, labels, { ball, radius, steps, toward = -1 }) {
    const { steepest, project } = balls[ball];
    let delta = new Float64Array(NUMBERS);
    let best = null;
    for (let step = 0; step <= steps; step++) {
      const { value, gradient, read } = risk(network, images, labels, delta, toward);
      if (!best || value > best.value) best = { value, delta, read, step };
      yield { step, delta, value, read, best };
      const size = 0.5 * radius * (1 - step / steps);
      const direction = steepest(gradient);
      delta = project(delta.map((d, i) => d + size * direction[i]), radius);
    }
  }

  window.IbauNetwork = { NUMBERS, PIXELS, SIZE, Network, balls, bytesOf, climb, halves, risk, softmax, worn };
})();
