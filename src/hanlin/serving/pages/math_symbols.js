// What TeX's command names stand for.

const table = (text) => Object.fromEntries(text.trim().split(/\s+/).map((pair) => pair.split(":")));

/** Letters and letter-like signs (`mi`). */
export const LETTERS = table(`
alpha:α beta:β gamma:γ delta:δ epsilon:ϵ varepsilon:ε zeta:ζ eta:η theta:θ vartheta:ϑ iota:ι kappa:κ lambda:λ mu:μ nu:ν xi:ξ
omicron:ο pi:π varpi:ϖ rho:ρ varrho:ϱ sigma:σ varsigma:ς tau:τ upsilon:υ phi:ϕ varphi:φ chi:χ psi:ψ omega:ω
Gamma:Γ Delta:Δ Theta:Θ Lambda:Λ Xi:Ξ Pi:Π Sigma:Σ Upsilon:Υ Phi:Φ Psi:Ψ Omega:Ω
infty:∞ hbar:ℏ ell:ℓ Re:ℜ Im:ℑ aleph:ℵ beth:ℶ wp:℘ partial:∂ nabla:∇ emptyset:∅ varnothing:∅ forall:∀ exists:∃ nexists:∄
imath:ı jmath:ȷ angle:∠ degree:° top:⊤ bot:⊥ triangle:△ square:□ Box:□ checkmark:✓ dots:… ldots:… cdots:⋯ vdots:⋮ ddots:⋱ dotsc:… dotsb:⋯
prime:′ complement:∁ S:§ dag:† clubsuit:♣ diamondsuit:♢ heartsuit:♡ spadesuit:♠ blacksquare:■ qed:□`);

/** Operators, relations and arrows (`mo`). */
export const OPERATORS = table(`
times:× div:÷ pm:± mp:∓ cdot:⋅ ast:∗ star:⋆ circ:∘ bullet:∙ oplus:⊕ ominus:⊖ otimes:⊗ odot:⊙ oslash:⊘ wedge:∧ land:∧ vee:∨ lor:∨ neg:¬ lnot:¬
cap:∩ cup:∪ setminus:∖ smallsetminus:∖ sqcup:⊔ sqcap:⊓ uplus:⊎ dagger:† ddagger:‡ amalg:⨿ wr:≀ diamond:⋄
leq:≤ le:≤ geq:≥ ge:≥ leqslant:⩽ geqslant:⩾ neq:≠ ne:≠ equiv:≡ approx:≈ approxeq:≊ sim:∼ simeq:≃ cong:≅ propto:∝ ll:≪ gg:≫ doteq:≐ triangleq:≜ coloneqq:≔
prec:≺ succ:≻ preceq:⪯ succeq:⪰ lesssim:≲ gtrsim:≳ subset:⊂ supset:⊃ subseteq:⊆ supseteq:⊇ subsetneq:⊊ supsetneq:⊋ in:∈ notin:∉ ni:∋
mid:∣ nmid:∤ parallel:∥ perp:⊥ vdash:⊢ dashv:⊣ models:⊨ vDash:⊨ asymp:≍ therefore:∴ because:∵
to:→ rightarrow:→ leftarrow:← gets:← leftrightarrow:↔ Rightarrow:⇒ Leftarrow:⇐ Leftrightarrow:⇔ implies:⟹ impliedby:⟸ iff:⟺
longrightarrow:⟶ longleftarrow:⟵ Longrightarrow:⟹ Longleftarrow:⟸ Longleftrightarrow:⟺ longleftrightarrow:⟷ mapsto:↦ longmapsto:⟼
uparrow:↑ downarrow:↓ updownarrow:↕ Uparrow:⇑ Downarrow:⇓ nearrow:↗ searrow:↘ swarrow:↙ nwarrow:↖ hookrightarrow:↪ hookleftarrow:↩
rightharpoonup:⇀ rightleftharpoons:⇌ leadsto:⇝ rightsquigarrow:⇝ colon:: lt:< gt:> And:&`);
OPERATORS.colon = ":";

/** Operators that are large and carry their limits above and below in display style. */
export const LARGE = table(`
sum:∑ prod:∏ coprod:∐ bigcup:⋃ bigcap:⋂ bigoplus:⨁ bigotimes:⨂ bigodot:⨀ bigvee:⋁ bigwedge:⋀ bigsqcup:⨆ biguplus:⨄`);

/** Integrals: large, limits at the side. */
export const INTEGRALS = table(`int:∫ iint:∬ iiint:∭ oint:∮`);

/** Functions set upright; the second list takes its subscript below in display style. */
export const FUNCTIONS = new Set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth exp log ln lg det dim ker deg arg hom gcd Pr".split(" "));
export const LIMITS = new Map([..."lim max min sup inf argmax argmin limsup liminf".split(" ").map((name) => [name, name]), ["limsup", "lim sup"], ["liminf", "lim inf"], ["argmax", "arg max"], ["argmin", "arg min"]]);

/** Delimiters that \left, \right and \big may stretch. */
export const DELIMITERS = {
  "(": "(", ")": ")", "[": "[", "]": "]", "|": "|", "/": "/", ".": "", "<": "⟨", ">": "⟩",
  "\\{": "{", "\\}": "}", "\\|": "‖", "\\backslash": "\\", "\\lbrace": "{", "\\rbrace": "}", "\\lbrack": "[", "\\rbrack": "]", "\\langle": "⟨", "\\rangle": "⟩",
  "\\lfloor": "⌊", "\\rfloor": "⌋", "\\lceil": "⌈", "\\rceil": "⌉", "\\vert": "|", "\\Vert": "‖", "\\lvert": "|", "\\rvert": "|", "\\lVert": "‖", "\\rVert": "‖",
  "\\uparrow": "↑", "\\downarrow": "↓", "\\updownarrow": "↕",
};

/** Accents: [sign, under, stretchy]. */
export const ACCENTS = {
  hat: ["^", false, false], widehat: ["^", false, true], check: ["ˇ", false, false], tilde: ["~", false, false], widetilde: ["~", false, true],
  acute: ["´", false, false], grave: ["`", false, false], dot: ["˙", false, false], ddot: ["¨", false, false], dddot: ["⃛", false, false], breve: ["˘", false, false],
  bar: ["¯", false, false], vec: ["→", false, false], overline: ["‾", false, true], underline: ["_", true, true], overbrace: ["⏞", false, true], underbrace: ["⏟", true, true],
  overrightarrow: ["→", false, true], overleftarrow: ["←", false, true], mathring: ["˚", false, false],
};

/** Spaces, in em. */
export const SPACES = { ",": 0.167, ":": 0.222, ">": 0.222, ";": 0.278, "!": -0.167, " ": 0.25, quad: 1, qquad: 2, enspace: 0.5, thinspace: 0.167, medspace: 0.222, thickspace: 0.278, negthinspace: -0.167, nobreakspace: 0.25 };

/** Code points of A, a and 0 in Unicode's mathematical alphabets. */
const ALPHABETS = {
  bold: [0x1d400, 0x1d41a, 0x1d7ce], bolditalic: [0x1d468, 0x1d482, 0x1d7ce], script: [0x1d49c, 0x1d4b6], fraktur: [0x1d504, 0x1d51e],
  double: [0x1d538, 0x1d552, 0x1d7d8], sans: [0x1d5a0, 0x1d5ba, 0x1d7e2], mono: [0x1d670, 0x1d68a, 0x1d7f6],
};
const GREEK = { bold: [0x1d6a8, 0x1d6c2], bolditalic: [0x1d71c, 0x1d736] };
const EXCEPTIONS = {
  script: { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ", e: "ℯ", g: "ℊ", o: "ℴ" },
  fraktur: { C: "ℭ", H: "ℌ", I: "ℑ", R: "ℜ", Z: "ℨ" },
  double: { C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ" },
};

export const FONTS = {
  mathbf: "bold", textbf: "bold", bm: "bolditalic", boldsymbol: "bolditalic", mathcal: "script", mathscr: "script", mathfrak: "fraktur", mathbb: "double",
  mathsf: "sans", mathtt: "mono", mathrm: "upright", mathit: "italic", mathnormal: "italic",
};

/** A character in one of Unicode's mathematical alphabets; itself where that has no such letter. */
export function styled(character, font) {
  const code = character.codePointAt(0);
  const alphabet = ALPHABETS[font];
  if (!alphabet) return character;
  if (EXCEPTIONS[font]?.[character]) return EXCEPTIONS[font][character];
  const [greekUpper, greekLower] = GREEK[font] ?? [];
  const shift = (from, to) => String.fromCodePoint(to + code - from);
  if (code >= 65 && code <= 90) return shift(65, alphabet[0]);
  if (code >= 97 && code <= 122) return shift(97, alphabet[1]);
  if (code >= 48 && code <= 57 && alphabet[2]) return shift(48, alphabet[2]);
  if (greekUpper && code >= 0x391 && code <= 0x3a9) return shift(0x391, greekUpper);
  if (greekLower && code >= 0x3b1 && code <= 0x3c9) return shift(0x3b1, greekLower);
  return character;
}
