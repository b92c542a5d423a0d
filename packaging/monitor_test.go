package packaging

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// metricName finds the metrics in an expression of Prometheus.
var metricName = regexp.MustCompile(`\b(holdfast|etcd|grpc)_[a-z0-9_]+`)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documented reports whether docs/metrics.md, which a test holds against running agents, has a metric.
func documented(t *testing.T, name string) bool {
	t.Helper()
	name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
	return strings.Contains(read(t, "../docs/metrics.md"), "| `"+name+"` |")
}

type rules struct {
	Groups []struct {
		Rules []struct {
			Alert, Expr string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

func TestEachAlertIsExplainedAndAsksForWhatThereIs(t *testing.T) {
	var r rules
	if err := yaml.Unmarshal([]byte(read(t, "prometheus/holdfast.rules.yaml")), &r); err != nil {
		t.Fatal(err)
	}
	operations := read(t, "../docs/operations.md")
	var alerts []string
	for _, g := range r.Groups {
		for _, rule := range g.Rules {
			alerts = append(alerts, rule.Alert)
			if !strings.Contains(operations, "\n### "+rule.Alert+"\n") {
				t.Errorf("docs/operations.md has no section %s", rule.Alert)
			}
			if s := rule.Labels["severity"]; s != "page" && s != "ticket" {
				t.Errorf("%s: severity %q", rule.Alert, s)
			}
			if rule.Annotations["summary"] == "" {
				t.Errorf("%s has no summary", rule.Alert)
			}
			for _, name := range metricName.FindAllString(rule.Expr, -1) {
				if !documented(t, name) {
					t.Errorf("%s asks for %s, which docs/metrics.md does not have", rule.Alert, name)
				}
			}
		}
	}
	if len(alerts) == 0 {
		t.Error("no alerts were read")
	}
	for _, section := range regexp.MustCompile(`(?m)^### (Holdfast\w+)$`).FindAllStringSubmatch(operations, -1) {
		if !slices.Contains(alerts, section[1]) {
			t.Errorf("docs/operations.md explains %s, which is no alert", section[1])
		}
	}
}

func TestTheDashboardAsksForWhatThereIs(t *testing.T) {
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/holdfast.json")), &board); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			for _, name := range metricName.FindAllString(target.Expr, -1) {
				if name == "grpc_code" {
					continue // a label
				}
				asked++
				if !documented(t, name) {
					t.Errorf("panel %q asks for %s, which docs/metrics.md does not have", p.Title, name)
				}
			}
		}
	}
	if asked == 0 {
		t.Error("no panel asks for anything")
	}
}
