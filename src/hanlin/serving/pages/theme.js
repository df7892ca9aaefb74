// Runs before the page is drawn, so that nothing flashes: the kept choice of light or dark and of the language.
(() => {
  const kept = (name) => {
    try {
      return JSON.parse(localStorage.getItem(`hanlin.${name}`));
    } catch {
      return null;
    }
  };
  const theme = kept("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  const language = kept("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
})();
