package servertls

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// contents is what the files hold.
type contents struct{ cert, key, clientCA, crl []byte }

func (c contents) equal(d contents) bool {
	return bytes.Equal(c.cert, d.cert) && bytes.Equal(c.key, d.key) && bytes.Equal(c.clientCA, d.clientCA) && bytes.Equal(c.crl, d.crl)
}

// stamp is by what a file that has changed is known, without reading it.
type stamp struct {
	size int64
	at   time.Time
	file os.FileInfo // for os.SameFile: a file that was renamed into place
}

// stamps looks at all files; one that is not there has the zero stamp.
func (o Options) stamps() []stamp {
	var all []stamp
	for _, path := range []string{o.CertFile, o.KeyFile, o.ClientCAFile, o.CRLFile} {
		if info, err := os.Stat(path); err == nil {
			all = append(all, stamp{info.Size(), info.ModTime(), info})
		} else {
			all = append(all, stamp{})
		}
	}
	return all
}

func equal(a, b []stamp) bool {
	return slices.EqualFunc(a, b, func(x, y stamp) bool {
		return x.size == y.size && x.at.Equal(y.at) && (x.file == nil && y.file == nil || x.file != nil && y.file != nil && os.SameFile(x.file, y.file))
	})
}

// fileMax is the largest file that is read; a CRL of 100,000 certificates has 4 MB.
const fileMax = 16 << 20

func (o Options) read() (c contents, err error) {
	for _, f := range []struct {
		path string
		into *[]byte
	}{{o.CertFile, &c.cert}, {o.KeyFile, &c.key}, {o.ClientCAFile, &c.clientCA}, {o.CRLFile, &c.crl}} {
		if f.path == "" {
			continue
		}
		if *f.into, err = readFile(f.path); err != nil {
			return contents{}, err
		}
	}
	if o.KeyFile != "" {
		if err := Private(o.KeyFile); err != nil {
			return contents{}, err
		}
	}
	return c, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, fileMax+1))
	if err == nil && len(b) > fileMax {
		err = fmt.Errorf("%s: larger than %d bytes", path, fileMax)
	}
	return b, err
}

// Private reports, as an error that says what to do, a file with a key that other users of the machine may read or
// replace. A group may read it, as packages of certificates have it.
func Private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if open := info.Mode().Perm() & 0o027; open != 0 {
		return fmt.Errorf("%s: mode %04o lets other users use the key: chmod 0600 it, and give it to the user that the agent runs as", path, info.Mode().Perm())
	}
	return nil
}

// parseCAs reads the certificates of a PEM file.
func parseCAs(text []byte) (cas []*x509.Certificate, err error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block %.40q where certificates of CAs belong", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if !c.IsCA {
			return nil, fmt.Errorf("%s is not the certificate of a CA", subject(c))
		}
		cas = append(cas, c)
	}
	if len(cas) == 0 {
		return nil, errors.New("no certificate in PEM in it")
	}
	return cas, nil
}

// revocations has a serial number, as bytes, for each certificate that is revoked, by its issuer.
type revocations map[string]map[string]bool

// in finds a certificate of a chain that is revoked.
func (r revocations) in(chain []*x509.Certificate) *x509.Certificate {
	for _, c := range chain {
		if r[string(c.RawIssuer)][string(c.SerialNumber.Bytes())] {
			return c
		}
	}
	return nil
}

// parseCRLs reads revocation lists, PEM or DER, each of which one of the CAs must have signed. One that is over its
// nextUpdate stays in force: a box that is offline must not forget what it knows.
func parseCRLs(text []byte, cas []*x509.Certificate) (revocations, error) {
	var ders [][]byte
	if block, _ := pem.Decode(text); block == nil {
		ders = [][]byte{text}
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("a PEM block %.40q where revocation lists (X509 CRL) belong", block.Type)
		}
		ders = append(ders, block.Bytes)
	}
	all := revocations{}
	for _, der := range ders {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("a revocation list that cannot be read: %w", err)
		}
		signed := func(ca *x509.Certificate) bool { return list.CheckSignatureFrom(ca) == nil }
		if !slices.ContainsFunc(cas, signed) {
			return nil, fmt.Errorf("a revocation list of %.200q, which no CA of clients has signed", list.Issuer.String())
		}
		serials := all[string(list.RawIssuer)]
		if serials == nil {
			serials = map[string]bool{}
			all[string(list.RawIssuer)] = serials
		}
		for _, e := range list.RevokedCertificateEntries {
			const removed = 8 // removeFromCRL, RFC 5280 section 5.3.1
			if e.ReasonCode != removed {
				serials[string(e.SerialNumber.Bytes())] = true
			}
		}
	}
	return all, nil
}
