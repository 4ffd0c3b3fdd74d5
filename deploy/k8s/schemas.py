#!/usr/bin/env python3
"""schemas.py SWAGGER OUT CRD…: writes a JSON schema per kind for kubeconform: of Kubernetes itself, from the OpenAPI file of
its Go module, and of each custom resource definition (YAML). Strict: an unknown field is an error."""

import json
import sys
from pathlib import Path

import yaml


def strict(schema):
    """Forbids fields that the schema doesn't name, at every depth."""
    if isinstance(schema, list):
        for part in schema:
            strict(part)
    elif isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
            if not open_ended and "additionalProperties" not in schema:
                schema["additionalProperties"] = False
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
        for part in schema.values():
            strict(part)


def write(kind, group, version, schema):
    suffix = f"-{group.split('.')[0]}" if group else ""
    (out / f"{kind.lower()}{suffix}-{version.lower()}.json").write_text(json.dumps(schema))


swagger, out, *crds = map(Path, sys.argv[1:])
out.mkdir(parents=True, exist_ok=True)

definitions = json.loads(swagger.read_text())["definitions"]
for name, schema in definitions.items():
    # Written as strings or numbers, although the description says string.
    if name.endswith(("util.intstr.IntOrString", "api.resource.Quantity")):
        definitions[name] = {"type": ["string", "number"]}
strict(list(definitions.values()))
(out / "definitions.json").write_text(json.dumps({"definitions": definitions}))
for name, schema in definitions.items():
    for kind in schema.get("x-kubernetes-group-version-kind", []):
        write(kind["kind"], kind["group"], kind["version"], {"$ref": f"definitions.json#/definitions/{name}"})

for crd in crds:
    spec = yaml.safe_load(crd.read_text())["spec"]
    for version in spec["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"]["metadata"] = {"$ref": "definitions.json#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
        strict(schema)
        write(spec["names"]["kind"], spec["group"], version["name"], schema)
