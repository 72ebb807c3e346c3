"use strict";
(() => {
  // Beside a mark: what it stands for. The tables say the same to readers without a pointer.
  const tip = document.getElementById("tip");
  const showTip = (event) => {
    const mark = event.target.closest("[data-tip]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const box = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, innerWidth - box.width - 8);
    const below = event.clientY + 16;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below + box.height > innerHeight ? event.clientY - box.height - 12 : below}px`;
  };
  document.addEventListener("pointermove", showTip);
  document.addEventListener("pointerdown", showTip);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const number = (value) => {
    if (value === null) return "–";
    if (value === 0 || value === 1) return String(value);
    return value >= 0.0005 ? value.toFixed(3) : value.toExponential(0);
  };
  const kinds = {
    accepted: "accepted draft",
    recovered: "recovered after a rejection",
    bonus: "bonus of the target",
  };

  const alternatives = (title, entries, chosen, main) => {
    const part = element("div");
    part.append(element("h4", "", title));
    const list = element("ol");
    const head = element("li", "head");
    head.append(element("span", "what", "token"), element("span", "", "p"), element("span", "", "q̃"));
    list.append(head);
    for (const entry of entries.slice(0, 6)) {
      const row = element("li", entry[0] === chosen ? "same" : "");
      const what = element("span", "what");
      const bar = element("span", "bar");
      bar.style.width = `${100 * (entry[main] || 0)}%`;
      const word = element("code", "", entry[0]);
      word.title = entry[0];
      what.append(bar, word);
      row.append(what, element("span", "", number(entry[1])), element("span", "", number(entry[2])));
      list.append(row);
    }
    part.append(list);
    return part;
  };

  const describe = (panel, token, place, total) => {
    const facts = element("dl");
    const fact = (name, value) => facts.append(element("dt", "", name), element("dd", "", value));
    fact("origin", kinds[token.k]);
    if (token.d) fact("instead of", `${token.d[0]} (p ${number(token.d[1])}, q̃ ${number(token.d[2])})`);
    fact("p", number(token.p));
    fact("q̃", token.q === null ? "not tested" : number(token.q));
    fact("β", number(token.b));
    fact("draft rows", token.o === null ? "not known" : token.o ? "has none" : "has one");
    fact("token", `${place + 1} of ${total}`);
    const lists = element("div", "alternatives");
    lists.append(alternatives("Most probable to the target", token.P, token.t, 1));
    if (token.Q.length) lists.append(alternatives("Most probable to the proposal", token.Q, token.t, 2));
    panel.replaceChildren(element("p", "word", token.t), facts, lists);
  };

  for (const view of document.querySelectorAll(".trace")) {
    const tokens = JSON.parse(document.getElementById(view.dataset.trace).textContent);
    const panel = view.querySelector(".detail");
    const buttons = [...view.querySelectorAll("[data-i]")];
    let chosen = -1;
    const choose = (place) => {
      if (place < 0 || place >= buttons.length || place === chosen) return;
      if (chosen >= 0) buttons[chosen].classList.remove("chosen");
      chosen = place;
      buttons[place].classList.add("chosen");
      describe(panel, tokens[place], place, tokens.length);
    };
    // One stop of the tab key for the whole text; the arrow keys move within it.
    const focus = (place) => {
      if (place < 0 || place >= buttons.length) return;
      for (const button of buttons) button.tabIndex = -1;
      buttons[place].tabIndex = 0;
      buttons[place].focus();
    };
    const placeOf = (event) => {
      const button = event.target.closest("[data-i]");
      return button ? Number(button.dataset.i) : -1;
    };
    // From the first touch on, the panel of a narrow page stays in sight.
    const use = () => view.classList.add("used");
    view.addEventListener("pointerdown", use, { once: true });
    view.addEventListener("keydown", use, { once: true });
    view.addEventListener("pointerover", (event) => choose(placeOf(event)));
    view.addEventListener("focusin", (event) => choose(placeOf(event)));
    view.addEventListener("click", (event) => focus(placeOf(event)));
    view.addEventListener("keydown", (event) => {
      const place = placeOf(event);
      if (place < 0) return;
      const moves = {
        ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1,
        Home: 0, End: buttons.length - 1,
      };
      if (event.key in moves) {
        event.preventDefault();
        focus(moves[event.key]);
      }
    });
    // The first rejection says most about how this works.
    choose(Math.max(0, tokens.findIndex((token) => token.k === "recovered")));
  }
})();
