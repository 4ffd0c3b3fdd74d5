#!/usr/bin/env bash
# `make lint-k8s`: builds both overlays, checks them strictly against the schemas of Kubernetes and of the custom resources
# (kubeconform), and what those don't see (manifests.py).
# `make test-k8s` (check.sh server): then a real API server takes them, in a dry run that admits and validates but stores
# nothing. KUBECONFIG names a server; the CRDs of KEDA and the Prometheus operator are applied to it. Without one, K8S_SERVER
# names a program that starts one: `PROGRAM start` prints KUBECONFIG=FILE, `PROGRAM stop` ends it.
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../local/lib.sh"

K8S_VERSION=v1.36.3
KEDA_VERSION=v2.21.0
PROMETHEUS_OPERATOR_VERSION=v0.85.0
KUSTOMIZE_VERSION=v5.8.1 # kubectl's own
KUBECONFORM_VERSION=v0.8.0
cd "$ROOT/deploy/k8s"
built=$LOCAL/k8s
mkdir -p "$built"

module() { # MODULE@VERSION: prints its folder
  (cd "$LOCAL" && go mod download -json "$1") | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'
}
crds() { # prints the files that define the custom resources used here
  local keda operator
  keda=$(module "github.com/kedacore/keda/v2@$KEDA_VERSION")/config/crd/bases
  operator=$(module "github.com/prometheus-operator/prometheus-operator@$PROMETHEUS_OPERATOR_VERSION")/example/prometheus-operator-crd
  printf '%s\n' "$keda"/keda.sh_{scaledobjects,triggerauthentications}.yaml "$operator"/monitoring.coreos.com_{podmonitors,prometheusrules}.yaml
}

# The rules as a resource of the Prometheus operator, as docs/KUBERNETES.md makes it.
prometheus_rule() {
  printf '%s\n' 'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' 'metadata: { name: like-counter }' 'spec:'
  sed 's/^/  /; s#runbook_url: docs/#runbook_url: https://git.example/like-counter/blob/main/docs/#' ../monitoring/alerts.yml
}

build_overlays() {
  local overlay
  for overlay in overlays/*/; do
    "$LOCAL/bin/kustomize" build "$overlay" >"$built/$(basename "$overlay").yaml"
  done
  prometheus_rule >"$built/rules.yaml"
}

find_go
install_packages k8s
install_go kustomize "$KUSTOMIZE_VERSION" sigs.k8s.io/kustomize/kustomize/v5
install_go kubeconform "$KUBECONFORM_VERSION" github.com/yannh/kubeconform/cmd/kubeconform
schemas=$LOCAL/dist/k8s-schemas-$K8S_VERSION-$KEDA_VERSION-$PROMETHEUS_OPERATOR_VERSION
if [ ! -d "$schemas" ]; then
  rm -rf "$schemas.new"
  mapfile -t definitions < <(crds)
  note 'making the schemas'
  ./schemas.py "$(module k8s.io/kubernetes@$K8S_VERSION)/api/openapi-spec/swagger.json" "$schemas.new" "${definitions[@]}"
  mv "$schemas.new" "$schemas"
fi

say 'deploy/k8s: kustomize, kubeconform, manifests.py'
build_overlays
"$LOCAL/bin/kubeconform" -strict -summary -schema-location "$schemas/{{.ResourceKind}}{{.KindSuffix}}.json" "$built"/*.yaml
./manifests.py "$built"/{development,production}.yaml
[ "${1:-}" = server ] || exit 0

if [ -z "${KUBECONFIG:-}" ]; then
  [ -n "${K8S_SERVER:-}" ] || die 'KUBECONFIG names no API server, and K8S_SERVER no program that starts one'
  trap '"$K8S_SERVER" stop' EXIT
  KUBECONFIG=$("$K8S_SERVER" start | sed -nE 's/^KUBECONFIG=([^ ]+).*/\1/p')
  export KUBECONFIG
fi
has_command kubectl || die 'kubectl is not in the PATH'
crds | while read -r file; do kubectl apply --server-side --filename "$file" >/dev/null; done
kubectl wait --for=condition=Established --timeout=60s crd/scaledobjects.keda.sh crd/triggerauthentications.keda.sh \
  crd/podmonitors.monitoring.coreos.com crd/prometheusrules.monitoring.coreos.com >/dev/null
for overlay in overlays/*/; do
  overlay=$(basename "$overlay")
  say "deploy/k8s: $overlay on $(kubectl version --output=json | sed -nE '/serverVersion/,$ s/.*"gitVersion": "(.*)".*/\1/p')"
  # A dry run makes no namespace for what is in it.
  namespace=$(sed -nE '/^kind: Namespace/,/^---/ s/^  name: (.*)/\1/p' "$built/$overlay.yaml")
  kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace"
  # Labels of pod security standards: a pod that isn't `restricted` is a warning, and a warning an error.
  kubectl label --overwrite namespace "$namespace" pod-security.kubernetes.io/warn=restricted pod-security.kubernetes.io/enforce=restricted >/dev/null
  kubectl apply --server-side --dry-run=server --warnings-as-errors --filename "$built/$overlay.yaml"
  kubectl apply --server-side --dry-run=server --warnings-as-errors --namespace "$namespace" --filename "$built/rules.yaml"
done
