package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// tlsFiles are what a client of https goes by: names as etcdctl has them.
type tlsFiles struct{ cacert, cert, key string }

func (t *tlsFiles) add(flags *pflag.FlagSet) {
	flags.StringVar(&t.cacert, "cacert", "", "with an https --endpoint: PEM file of the CA to trust, as agent cert ca prints it; without it those of the system")
	flags.StringVar(&t.cert, "cert", "", "likewise: PEM file of this client's certificate")
	flags.StringVar(&t.key, "key", "", "likewise: PEM file of its key")
}

// config reads the files. A fault names the flag.
func (t tlsFiles) config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.cacert != "" {
		pem, err := os.ReadFile(t.cacert)
		if err != nil {
			return nil, exitf(exitUsage, "--cacert: %w", err)
		}
		if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, exitf(exitUsage, "--cacert: %s holds no certificate in PEM", t.cacert)
		}
	}
	switch {
	case t.cert == "" && t.key == "":
	case t.cert == "" || t.key == "":
		return nil, exitf(exitUsage, "--cert and --key go together")
	default:
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, exitf(exitUsage, "--cert, --key: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// distrust explains a connection that came to nothing because one end does not take the other's certificate; nil: it was
// something else. Nothing was sent on it.
func distrust(name string, err error) error {
	if ca, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return exitf(exitRefused, "%s has a certificate that is not trusted here: %w (name its CA with --cacert; agent cert ca on that machine prints the cluster's)", name, ca)
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return exitf(exitRefused, "%s has a certificate that does not do: %w", name, bad)
	}
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" { // how crypto/tls reports an alert
		return exitf(exitRefused, "%s does not take this client: %w (it may want a certificate: --cert and --key)", name, alert.Err)
	}
	if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return exitf(exitRefused, "%s does not speak https: %w", name, plain)
	}
	return nil
}

func (p *program) certCACommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "ca [flags]",
		Short: "Print the certificates of the cluster's CAs, by which clients trust https listeners with tls.auto",
		Long: `Print the certificates of the cluster's CAs in PEM: no secret. Clients of https listeners with
tls.auto trust them:

  agent cert ca > ca.pem
  curl --cacert ca.pem https://box:2379/v1/status
  etcdctl --cacert ca.pem --endpoints https://box:2379 get a

There are two while one CA takes the other's place: give clients both, in one file.`,
		Args: noArgs(exitUsage),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := p.ask(cmd, f, call{method: http.MethodGet, path: certPath})
			if err != nil {
				return err
			}
			var doc struct {
				CAs []struct {
					PEM string `json:"pem"`
				} `json:"cas"`
			}
			if err := json.Unmarshal(a.body, &doc); err != nil {
				return exitf(exitRefused, "the answer is no JSON: %w", err)
			}
			if len(doc.CAs) == 0 {
				return exitf(exitTemporary, "this node has not joined a cluster yet and knows no CA")
			}
			for _, ca := range doc.CAs {
				if _, err := p.stdout.Write([]byte(ca.PEM)); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// withoutPEM leaves certificates out of what is shown as a table.
func withoutPEM(doc []byte) []byte {
	var tree map[string]any
	if json.Unmarshal(doc, &tree) != nil {
		return doc
	}
	cas, _ := tree["cas"].([]any)
	for _, ca := range cas {
		if m, ok := ca.(map[string]any); ok {
			delete(m, "pem")
		}
	}
	out, err := json.Marshal(tree)
	if err != nil {
		return doc
	}
	return out
}
