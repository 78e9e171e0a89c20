
// Asks the proxy, never a backend, whether the service is back; each time when the proxy said to. Then a page that was
// merely looked at loads again, and a page that keeps an entry says so.
(() => {
  const told = document.currentScript.dataset;
  const memory = "ridethrough-rounds";
  let round = 0;
  try {
    // A page that came back only to fail again goes on where it was, instead of asking like a new one.
    const last = JSON.parse(sessionStorage.getItem(memory));
    if (last && Date.now() - last.at < 60000) round = Math.min(last.round, 9);
  } catch {}
  const back = () => {
    const line = document.getElementById("ridethrough-next");
    if (line) {
      line.textContent = told.back;
      line.classList.add("is-back");
    }
    if (!("reloads" in told)) return;
    try {
      sessionStorage.setItem(memory, JSON.stringify({ round, at: Date.now() }));
    } catch {}
    location.reload();
  };
  const later = (wait) => setTimeout(ask, Math.min(Math.max(wait, 500), 120000));
  const ask = async () => {
    round += 1;
    // Where not even the proxy answers, nobody gives out slots.
    let wait = Math.min(60000, 1000 * 2 ** round) * (0.5 + Math.random() / 2);
    try {
      const answer = await fetch(`${told.status}?waiter=${told.token}&round=${round}`, {
        cache: "no-store",
        signal: AbortSignal.timeout(10000),
      });
      const state = await answer.json();
      if (state.available) return back();
      wait = state.wait_ms;
    } catch {}
    later(wait);
  };
  later(round ? Math.max(told.wait, 1000 * 2 ** Math.min(round, 5) * Math.random()) : Number(told.wait));
})();
