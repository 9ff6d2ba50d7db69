// One question while its stream runs: the thinking in a <details>, below it the answer so far.
// What the model wrote becomes text nodes and nothing else.
// @ts-check

/** @typedef {{ state: string, seconds: number, tokens: number | null, rate: number | null, waits?: string }} Progress */
/** @typedef {{ thinking?: [number, string], answer?: [number, string], progress?: Progress }} Message */
/** @typedef {{ get(name: string): any, on(event: string, callback: (message: any) => void): void }} Model */

const STATES = /** @type {Record<string, string>} */ ({
  waiting: "Waiting",
  thinking: "Thinking",
  answering: "Answering",
});

/** A text that arrives in pieces, each with the place where it starts (in UTF-16 units, as here). */
class Growing {
  text = "";
  /** @type {[number, string][]} pieces whose predecessor is not here yet */
  #ahead = [];

  /**
   * @param {number} start
   * @param {string} piece
   */
  add(start, piece) {
    this.#ahead.push([start, piece]);
    this.#ahead = this.#ahead.filter(([from, text]) => {
      if (from > this.text.length) return true;
      this.text += text.slice(this.text.length - from);
      return false;
    });
  }
}

/** @param {number} seconds */
function duration(seconds) {
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
}

/**
 * @param {string} tag
 * @param {string} [className]
 */
function make(tag, className) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  return element;
}

/**
 * Keep a scrolling element at its bottom until its reader scrolls away, and again once they are back.
 * @param {HTMLElement} box
 * @param {AbortSignal} signal ends it
 * @returns {() => void} to be called when the box has grown
 */
function follow(box, signal) {
  let pinned = true;
  let held = false; // by a finger or by the scrollbar
  let downwards = -Infinity; // when the reader last moved that way
  const toBottom = () => { box.scrollTop = box.scrollHeight; };
  // Some lines may have come while the reader was on the way: near the end counts as there.
  const nearBottom = () => box.scrollHeight - box.scrollTop - box.clientHeight < 40;

  box.addEventListener("wheel", ({ deltaY }) => {
    if (deltaY < 0) pinned = false;
    else downwards = performance.now();
  }, { passive: true, signal });
  box.addEventListener("keydown", ({ key }) => {
    if (["ArrowUp", "PageUp", "Home"].includes(key)) pinned = false;
    else if (key === "End") {
      pinned = true;
      toBottom(); // the browser would glide to where the end was when it set off
    } else downwards = performance.now();
  }, { signal });
  for (const [event, state] of /** @type {[string, boolean][]} */ ([
    ["pointerdown", true], ["touchstart", true], ["pointerup", false], ["touchend", false],
  ])) {
    (state ? box : window).addEventListener(event, () => { held = state; }, { passive: true, signal });
  }
  // Growing scrolls too, so a scroll alone says nothing of what the reader wants.
  box.addEventListener("scroll", () => {
    if (held) pinned = nearBottom();
    else if (performance.now() - downwards < 500 && nearBottom()) pinned = true;
  }, { signal });
  return () => { if (pinned) toBottom(); };
}

export default () => {
  // One of these for each question; its views (there may be several) read from here.
  const thinking = new Growing();
  const answer = new Growing();
  /** @type {Progress} */
  let progress = { state: "waiting", seconds: 0, tokens: null, rate: null };
  let heard = performance.now();
  /** @type {Set<() => void>} */
  const views = new Set();

  /** @param {Message} message */
  function take(message) {
    if (message.thinking) thinking.add(...message.thinking);
    if (message.answer) answer.add(...message.answer);
    if (message.progress) {
      progress = message.progress;
      heard = performance.now();
    }
    for (const redraw of views) redraw();
  }

  return {
    /** @param {{ model: Model }} context */
    initialize({ model }) {
      model.on("msg:custom", take);
      // Messages sent before this module was loaded are lost; the text so far, sent ever more rarely, is not.
      model.on("change:so_far", () => take(model.get("so_far")));
      take(model.get("so_far"));
    },

    /** @param {{ model: Model, el: HTMLElement }} context */
    render({ model, el }) {
      const root = make("div", "magistral-view");
      const details = /** @type {HTMLDetailsElement} */ (make("details"));
      details.open = !model.get("folded");
      const summary = make("summary");
      summary.setAttribute("data-lm-suppress-shortcuts", "true"); // Enter and Space fold, and reach no cell
      const state = make("b");
      const [waits, seconds, tokens, rate] = [make("span"), make("span"), make("span"), make("span")];
      summary.append(make("span", "magistral-pulse"), state, waits, seconds, tokens, rate);
      const box = make("pre");
      box.tabIndex = 0;
      const said = make("div", "magistral-answer");
      details.append(summary, box);
      root.append(details);
      el.append(root, said);
      const gone = new AbortController();
      const grown = follow(box, gone.signal);
      details.addEventListener("toggle", grown);

      function tick() {
        seconds.textContent = duration(progress.seconds + (performance.now() - heard) / 1000);
      }

      /**
       * @param {HTMLElement} element
       * @param {Growing} source
       * @param {number} shown
       */
      function append(element, source, shown) {
        if (source.text.length > shown) element.append(source.text.slice(shown));
        return source.text.length;
      }

      let [thinkingShown, answerShown, frame] = [0, 0, 0];
      function draw() {
        frame = 0;
        thinkingShown = append(box, thinking, thinkingShown);
        answerShown = append(said, answer, answerShown);
        root.dataset.state = progress.state;
        state.textContent = STATES[progress.state] ?? "Answering";
        tokens.textContent = progress.tokens ? `${progress.tokens.toLocaleString("en")} tokens` : "";
        rate.textContent = progress.rate ? `${progress.rate.toFixed(progress.rate < 10 ? 1 : 0)} tok/s` : "";
        waits.textContent = progress.waits ?? "";
        for (const part of [waits, tokens, rate]) part.hidden = !part.textContent;
        tick();
        grown();
      }

      const redraw = () => { frame ||= requestAnimationFrame(draw); };
      views.add(redraw);
      draw();
      const clock = setInterval(tick, 250);
      return () => {
        gone.abort();
        clearInterval(clock);
        cancelAnimationFrame(frame);
        views.delete(redraw);
      };
    },
  };
};
