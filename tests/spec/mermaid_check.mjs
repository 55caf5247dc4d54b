// Reads a JSON list of diagrams from standard input and writes a list of {kind, actors, arrows, error}, as Mermaid parses them.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.argv[2]}/package.json`);
const { JSDOM } = require("jsdom");
const { window } = new JSDOM("");
globalThis.window = window;
globalThis.document = window.document;
const { default: mermaid } = await import(pathToFileURL(`${process.argv[2]}/node_modules/mermaid/dist/mermaid.core.mjs`));

let text = "";
for await (const chunk of process.stdin) text += chunk;
const found = [];
for (const diagram of JSON.parse(text)) {
  try {
    const { diagramType } = await mermaid.parse(diagram);
    const { db } = await mermaid.mermaidAPI.getDiagramFromText(diagram);
    const actors = db.getActors ? [...db.getActors().values()].map((actor) => actor.description) : [];
    const arrows = diagramType === "stateDiagram" ? (db.getRelations?.() ?? db.relations).length : 0;
    found.push({ kind: diagramType, actors, arrows, error: "" });
  } catch (error) {
    found.push({ kind: "", actors: [], arrows: 0, error: String(error.message) });
  }
}
process.stdout.write(JSON.stringify(found));
