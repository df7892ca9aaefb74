// The words of the annotation page.

/** key: [English, Chinese]; {name} is filled in. */
export const ANNOTATION = {};
